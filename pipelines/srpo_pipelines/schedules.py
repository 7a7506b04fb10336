"""Recurring runs: what a schedule is, checked before the API of Kubeflow Pipelines is asked for it."""

import contextlib
import io
import zoneinfo
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
DESCRIPTORS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")
PAGE = 100  # schedules asked for at once


def cron_expression(text: str, time_zone: str = "UTC") -> str:
    """``text`` as Kubeflow reads it: six fields (five get the second 0), after the time zone unless that is UTC.

    Kubeflow's controller parses with Go's ``robfig/cron``: ranges, steps, lists, names and a ``TZ=`` prefix.

    Raises:
        InputError: not a cron expression, or not a time zone of the IANA database.
    """
    try:
        zoneinfo.ZoneInfo(time_zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"--time-zone is {time_zone!r}: it must be a name like Europe/Berlin") from None
    prefix = "" if time_zone == "UTC" else f"TZ={time_zone} "
    if text.strip() in DESCRIPTORS:
        return prefix + text.strip()
    fields = text.split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise InputError(f"--cron is {text!r}: it must have five fields (minute first) or six (second first)")
    for field, (name, low, high, names) in zip(fields, FIELDS, strict=True):
        for part in field.split(","):
            if not _is_part(part, low, high, names):
                known = f" or {', '.join(names)}" if names else ""
                raise InputError(
                    f"--cron is {text!r}: the {name} is {field!r}: it must be *, numbers from {low} to {high}{known}, "
                    "ranges (1-5), steps (*/15) or lists of them (1,15)"
                )
    return prefix + " ".join(fields)


def _is_part(part: str, low: int, high: int, names: Sequence[str]) -> bool:
    """Whether ``part`` is ``*``, ``a`` or ``a-b``, with or without ``/step``."""
    span, slash, step = part.partition("/")
    if slash and not (step.isascii() and step.isdigit() and int(step) > 0):
        return False
    if span in ("*", "?"):
        return True
    ends = [_number(end, low, names) for end in span.split("-")]
    whole = [end for end in ends if end is not None and low <= end <= high]
    return len(whole) == len(ends) <= 2 and whole == sorted(whole)


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
