"""`srpo schedule` with the real client, against a server that plays the API of Kubeflow Pipelines."""

import datetime
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kubeflow_cron import refused_cron
from kubeflow_server import TOKEN

from srpo.core.contracts.errors import InputError
from srpo_pipelines.cli import main
from srpo_pipelines.commands.schedule import lines
from srpo_pipelines.schedules import FIELDS, cron_expression, next_times

NOW = datetime.datetime(2026, 2, 27, 23, 59, 58, tzinfo=datetime.UTC)  # a Friday
CREATE = ("--name", "weekly", "--cron", "0 3 * * mon")


def schedule(capsys, server, action, *arguments):
    """Exit code, standard output and standard error."""
    code = main(["schedule", action, "--host", server.url, *arguments])
    shown = capsys.readouterr()
    assert TOKEN not in shown.out + shown.err
    return code, shown.out, shown.err


def test_a_schedule_is_enabled_typed_and_never_runs_twice_at_once(capsys, server):
    code, shown, error = schedule(
        capsys,
        server,
        "create",
        *(*CREATE, "--recipe", "flux1-dev-hpsv2", "--experiment", "weekly"),
        *("--set", "steps=25", "--set", "learning_rate=1e-6", "--set", "prompts=/workspace/prompts/newest.jsonl"),
        *("--service-account", "srpo-runner", "--namespace", "team"),
    )
    assert (code, error) == (0, "")
    first, *times = shown.splitlines()
    assert first == "schedule weekly (schedule-1): 0 0 3 * * mon"
    assert [time[:6] + time[16:31] for time in times[1:]] == ["  Mon  03:00:00 UTC  "] * 5
    body = server.posted("recurringruns")
    assert body["mode"] == "ENABLE"
    assert body["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * mon"}}
    assert (int(body["max_concurrency"]), body["no_catchup"]) == (1, True)
    assert (body["display_name"], body["service_account"]) == ("weekly", "srpo-runner")
    assert body["experiment_id"] == server.experiments[0]["experiment_id"]
    given = body["runtime_config"]["parameters"]
    expected = {"steps": 25, "learning_rate": 1e-6, "gpus": 8, "prompts": "/workspace/prompts/newest.jsonl"}
    for name, value in expected.items():
        assert given[name] == value, name
        assert type(given[name]) is type(value), name
    assert isinstance(given["overrides"], dict)


def test_a_scheduled_run_is_never_answered_by_kubeflows_cache(capsys, server):
    """A run whose parameters are last week's must read the prompts that are there this week."""
    assert schedule(capsys, server, "create", *CREATE)[0] == 0
    assert "enableCache" not in str(server.posted("recurringruns")["pipeline_spec"])


def test_a_schedule_can_go_on_from_the_newest_promoted_release(capsys, server):
    """The channel itself is sent, and each run's `fetch_base` asks it: nothing is fixed when the schedule is made."""
    latest = "model=s3://models/flux@latest"
    code, _, error = schedule(capsys, server, "create", *CREATE, "--recipe", "flux1-dev-hpsv2", "--set", latest)
    assert (code, error) == (0, "")
    body = server.posted("recurringruns")
    assert body["runtime_config"]["parameters"]["model"] == "s3://models/flux@latest"
    assert "enableCache" not in str(body["pipeline_spec"])


def test_schedules_are_listed_paused_resumed_and_deleted(capsys, server):
    for name in ("weekly", "daily", "monthly"):
        assert schedule(capsys, server, "create", "--name", name, "--cron", f"@{name}")[0] == 0
    code, shown, _ = schedule(capsys, server, "list")  # three pages
    assert code == 0
    assert [line.split("\t") for line in shown.splitlines()] == [
        ["weekly", "enabled", "@weekly", "schedule-1"],
        ["daily", "enabled", "@daily", "schedule-2"],
        ["monthly", "enabled", "@monthly", "schedule-3"],
    ]
    assert schedule(capsys, server, "pause", "--name", "daily")[1] == "paused daily (schedule-2)\n"
    assert "daily\tpaused" in schedule(capsys, server, "list")[1]
    assert schedule(capsys, server, "resume", "--name", "daily")[1] == "resumed daily (schedule-2)\n"
    assert "daily\tenabled" in schedule(capsys, server, "list")[1]
    assert schedule(capsys, server, "delete", "--name", "weekly")[1] == "deleted weekly (schedule-1)\n"
    assert "weekly" not in schedule(capsys, server, "list")[1]


def test_a_name_stands_for_one_schedule(capsys, server):
    assert schedule(capsys, server, "create", *CREATE)[0] == 0
    code, _, error = schedule(capsys, server, "create", *CREATE)
    assert code == 2
    assert "there is a schedule 'weekly' already" in error
    assert len(server.schedules) == 1


def test_an_unknown_schedule_is_refused_with_the_known_ones(capsys, server):
    assert schedule(capsys, server, "create", *CREATE)[0] == 0
    for action in ("pause", "resume", "delete"):
        code, _, error = schedule(capsys, server, action, "--name", "wekly")
        assert (code, error.count("\n")) == (2, 1)
        assert "('weekly')" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cron", "0 3 * *"), "five fields"),
        (("--cron", "0 25 * * *"), "the hour is '25'"),
        (("--cron", "*/0 3 * * *"), "the minute is '*/0'"),
        (("--cron", "0 3 * * 5-1"), "the day of the week is '5-1'"),
        (("--cron", "0 3 * * foo"), "sun, mon"),
        (("--cron", "@sometimes"), "five fields"),
        (("--cron", "TZ=Europe/Berlin 0 3 * * mon"), "the second is 'TZ=Europe/Berlin'"),
        (("--cron", "0 3 30 feb *"), "a time that comes"),
        (("--cron", "@daily", "--set", "steps=0"), "steps is 0"),
        (("--cron", "@daily", "--recipe", "dmeo"), "did you mean 'demo'?"),
    ],
)
def test_bad_input_is_refused_with_no_request_at_all(capsys, server, arguments, said):
    code, shown, error = schedule(capsys, server, "create", "--name", "weekly", *arguments)
    assert (code, shown, error.count("\n")) == (2, "", 1)
    assert said in error
    assert server.requests == []


def test_a_refusal_of_the_api_is_one_line(capsys, server):
    server.answers["POST", "recurringruns"] = [(400, {"message": "cron is not ours"})]
    code, _, error = schedule(capsys, server, "create", *CREATE)
    assert (code, error) == (1, f"srpo: {server.url} refused: 400 Bad Request: cron is not ours\n")


@st.composite
def fields(draw, low, high):
    """One field that cron knows: a star, numbers, ranges and steps."""
    numbers = st.integers(low, high)
    ranges = st.tuples(numbers, numbers).map(lambda ends: "{}-{}".format(*sorted(ends)))
    spans = st.one_of(st.just("*"), numbers.map(str), ranges)
    stepped = st.builds(lambda span, step: f"{span}/{step}" if step else span, spans, st.integers(0, 9))
    return ",".join(draw(st.lists(stepped, min_size=1, max_size=3)))


@given(st.tuples(*(fields(low, high) for _, low, high, _ in FIELDS)))
def test_what_cron_knows_is_passed_on_as_it_was_written(given_fields):
    text = " ".join(given_fields)
    if not next_times(text, NOW, 1):  # a 31st of February
        with pytest.raises(InputError, match="a time that comes"):
            cron_expression(text)
        return
    assert cron_expression(text) == text
    assert cron_expression(" ".join(given_fields[1:])) == "0 " + " ".join(given_fields[1:])
    assert refused_cron(cron_expression(text)) is None


@given(st.integers(0, 5), st.integers(60, 10**6))
def test_a_number_beyond_its_field_is_refused(place, number):
    fields = ["1"] * 6
    fields[place] = str(number)
    with pytest.raises(InputError, match=FIELDS[place][0]):
        cron_expression(" ".join(fields))


@pytest.mark.parametrize(
    ("cron", "times"),
    [
        ("@daily", ["02-28 00:00:00", "03-01 00:00:00", "03-02 00:00:00"]),
        ("@weekly", ["03-01 00:00:00", "03-08 00:00:00", "03-15 00:00:00"]),
        ("*/30 59 23 * * *", ["02-28 23:59:00", "02-28 23:59:30", "03-01 23:59:00"]),
        ("58/1 59 23 27 * *", ["02-27 23:59:59", "03-27 23:59:58", "03-27 23:59:59"]),
        ("0 0 3 1 * mon", ["03-01 03:00:00", "03-02 03:00:00", "03-09 03:00:00"]),  # either day is enough
        ("0 0 3 1 * *", ["03-01 03:00:00", "04-01 03:00:00", "05-01 03:00:00"]),
        ("0 0 3 */9 * mon", ["06-01 03:00:00", "08-10 03:00:00", "09-28 03:00:00"]),  # with a star both must hold
        ("0 0 8-18/5 ? jan-dec/6 1-2", ["07-06 08:00:00", "07-06 13:00:00", "07-06 18:00:00"]),
    ],
)
def test_the_next_times_are_those_of_kubeflows_library(cron, times):
    assert refused_cron(cron) is None
    assert [f"{time:%m-%d %H:%M:%S}" for time in next_times(cron, NOW, 3)] == times


def test_the_next_times_are_told_in_utc_and_here(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        first, *others = lines("0 0 2 * * sun", NOW.replace(month=3, day=23))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert "CRON_SCHEDULE_TIMEZONE" in first
    assert others[0] == "  Sun 2026-03-29 02:00:00 UTC  Sun 2026-03-29 04:00:00 CEST"
    assert len(others) == 5
