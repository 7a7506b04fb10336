"""Recurring runs: what a schedule is, checked before the API of Kubeflow Pipelines is asked for it."""

import contextlib
import datetime
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo_pipelines.errors import Failed
from srpo_pipelines.kubeflow import Api, telling

# Seconds, minutes, hours, days of the month, months, days of the week: name, lowest, highest, names.
FIELDS = (
    ("second", 0, 59, ()),
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    ("day of the week", 0, 6, ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
)
DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
DAYS = 5 * 366  # how far the library looks for the next time
PAGE = 100  # schedules asked for at once


def cron_expression(text: str) -> str:
    """``text`` as Kubeflow reads it: a descriptor, or six fields (five get the second 0).

    Kubeflow's controller parses with Go's ``robfig/cron`` v1.2.0, which knows ranges, steps, lists and names, and no
    time zone: the controller's own counts.

    Raises:
        InputError: not a cron expression, or one whose time never comes.
    """
    if text.strip() in DESCRIPTORS:
        return text.strip()
    fields = text.split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise InputError(f"--cron is {text!r}: it must have five fields (minute first) or six (second first)")
    for field, (name, low, high, names) in zip(fields, FIELDS, strict=True):
        if not _values(field, low, high, names):
            known = f" or {', '.join(names)}" if names else ""
            raise InputError(
                f"--cron is {text!r}: the {name} is {field!r}: it must be *, numbers from {low} to {high}{known}, "
                "ranges (1-5), steps (*/15) or lists of them (1,15)"
            )
    expression = " ".join(fields)
    if not next_times(expression, datetime.datetime.now(datetime.UTC), 1):
        raise InputError(f"--cron is {text!r}: it must be a time that comes within five years")
    return expression


def next_times(expression: str, after: datetime.datetime, count: int) -> list[datetime.datetime]:
    """The next ``count`` times of a cron ``expression`` (of :func:`cron_expression`) in the time zone of ``after``.

    Fewer where five years hold no more. A day must be one of the month's and of the week's; where both are given, one
    of them is enough (robfig/cron, spec.go).
    """
    fields = DESCRIPTORS.get(expression, expression).split()
    values = [_values(field, low, high, names) for field, (_, low, high, names) in zip(fields, FIELDS, strict=True)]
    seconds, minutes, hours, days, months, weekdays = (sorted(found) for found in values)
    either = not any(part[0] in "*?" for field in (fields[3], fields[5]) for part in field.split(","))
    found: list[datetime.datetime] = []
    for number in range(DAYS):
        date = after.date() + datetime.timedelta(days=number)
        matches = date.day in days, date.isoweekday() % 7 in weekdays
        if date.month not in months or not (any(matches) if either else all(matches)):
            continue
        for hour, minute, second in itertools.product(hours, minutes, seconds):
            time = datetime.datetime.combine(date, datetime.time(hour, minute, second), after.tzinfo)
            if time > after:
                found.append(time)
            if len(found) == count:
                return found
    return found


def _values(field: str, low: int, high: int, names: Sequence[str]) -> set[int]:
    """The numbers that a field of a cron expression stands for; none where it is not one."""
    found: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        if slash and not (step.isascii() and step.isdigit() and int(step) > 0):
            return set()
        ends = [low, high] if span in ("*", "?") else [_number(end, low, names) for end in span.split("-")]
        whole = [end for end in ends if end is not None and low <= end <= high]
        if len(whole) != len(ends) or len(ends) > 2 or whole != sorted(whole):
            return set()
        last = high if slash and len(ends) == 1 else whole[-1]  # 5/15 is 5-59/15
        found.update(range(whole[0], last + 1, int(step or 1)))
    return found


def _number(text: str, low: int, names: Sequence[str]) -> int | None:
    if text.lower() in names:
        return list(names).index(text.lower()) + low
    return int(text) if text.isascii() and text.isdigit() else None


def create(
    at: Api,
    client: Any,
    name: str,
    cron: str,
    package: Path,
    arguments: Mapping[str, Any],
    experiment: str,
    namespace: str | None,
    service_account: str | None,
    pipeline_root: str | None,
) -> str:
    """Make the schedule ``name``, enabled, one run at a time, and without the runs that it missed; returns its id.

    Kubeflow keeps several schedules of one name; here a name stands for one, so an existing one is refused.

    Raises:
        InputError: there is a schedule of that name.
        Failed: the API refuses.
    """
    if find(at, client, name, namespace, must_exist=False):
        raise InputError(f"there is a schedule {name!r} already: delete it first, or choose another --name")
    with telling(at), contextlib.redirect_stdout(io.StringIO()):  # the client prints links of its own
        owner = client.create_experiment(name=experiment, namespace=namespace)
        made = client.create_recurring_run(
            experiment_id=owner.experiment_id,
            job_name=name,
            description="Align an image model again, from the newest prompts (srpo schedule)",
            cron_expression=cron,
            max_concurrency=1,
            no_catchup=True,
            params=dict(arguments),
            pipeline_package_path=str(package),
            enabled=True,
            pipeline_root=pipeline_root,
            service_account=service_account,
        )
    if not made.recurring_run_id:
        raise Failed(f"srpo: {at.host} answered without a schedule: it does not seem to be Kubeflow Pipelines", 1)
    return str(made.recurring_run_id)


def listed(at: Api, client: Any, namespace: str | None) -> Iterator[Any]:
    """All schedules of the namespace, page by page."""
    token = ""
    while True:
        with telling(at):
            page = client.list_recurring_runs(page_token=token, page_size=PAGE, namespace=namespace)
        yield from page.recurring_runs or []
        token = page.next_page_token or ""
        if not token:
            return


def find(at: Api, client: Any, name: str, namespace: str | None, must_exist: bool = True) -> list[Any]:
    """The schedules called ``name`` (or of that id).

    Raises:
        InputError: there is none, though it must exist.
    """
    known = list(listed(at, client, namespace))
    found = [one for one in known if name in (one.display_name, one.recurring_run_id)]
    if not found and must_exist:
        names = ", ".join(sorted(repr(one.display_name) for one in known)) or "none"
        raise InputError(f"there is no schedule {name!r}: it must be one of those there are ({names})")
    return found
