"""Work that was killed goes on in the same task; work that failed, or is killed at one place twice, does not."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from srpo.core.contracts.errors import InputError
from srpo.core.execution.again import MOST, KilledError, Tries, run_apart


def parts(folder):
    return sorted(path.name for path in folder.iterdir())


def killed_after(folder, steps, kills):
    """Work of ``steps`` files that a signal ends after each number of files in ``kills``, once each."""

    def work():
        for number in range(len(parts(folder)), steps):
            if number in kills and not (folder.parent / f"killed-{number}").exists():
                (folder.parent / f"killed-{number}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            (folder / str(number)).touch()

    return work


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def test_work_that_was_killed_goes_on_where_it_was_and_says_why(folder, capfd):
    run_apart(killed_after(folder, 5, {0, 2, 4}), Tries("sample", lambda: parts(folder)))
    assert parts(folder) == ["0", "1", "2", "3", "4"]
    told = capfd.readouterr().out.splitlines()
    assert len(told) == 3
    assert told[0].startswith("srpo: sample: the process that works was killed by SIGKILL, as the kernel does when")
    assert told[0].endswith("goes on from what is finished (try 1 of 3)")


def test_what_is_killed_at_one_place_twice_is_not_begun_a_third_time(folder, capfd):
    def work():
        (folder / "begun").touch()
        os.kill(os.getpid(), signal.SIGXCPU)

    with pytest.raises(RuntimeError, match="killed by SIGXCPU"):
        run_apart(work, Tries("sample", lambda: "here"))
    told = capfd.readouterr().out
    assert told.count("(try ") == 1
    assert "again before anything more was finished: not tried again" in told


def test_work_may_say_that_a_process_of_its_own_was_killed(folder):
    def work():
        (folder / str(len(parts(folder)))).touch()
        if len(parts(folder)) < 3:
            raise KilledError("a process that encodes was killed by SIGKILL")

    run_apart(work, Tries("encode_prompts", lambda: parts(folder)))
    assert parts(folder) == ["0", "1", "2"]


def test_the_tries_are_bounded_whatever_is_finished_meanwhile(folder):
    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        run_apart(killed_after(folder, 9, set(range(9))), Tries("sample", lambda: parts(folder)))
    assert len(parts(folder)) == MOST


@pytest.mark.parametrize("error", [InputError("steps is 0"), ValueError("no"), KeyboardInterrupt(), SystemExit(143)])
def test_an_error_comes_as_it_is_and_is_not_tried_again(folder, capfd, error):
    def work():
        (folder / str(os.getpid())).touch()
        raise error

    with pytest.raises(type(error)) as raised:
        run_apart(work, Tries("sample", lambda: ""))
    assert raised.value.args == error.args
    assert len(parts(folder)) == 1
    assert capfd.readouterr().out == ""


def test_who_asks_for_an_end_gets_it(folder):
    def work():
        (folder / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        run_apart(work, Tries("sample", lambda: ""))
    assert ended.value.code == 143
    assert len(parts(folder)) == 1


def test_an_error_that_cannot_be_sent_is_told_in_its_words():
    class Local(Exception):  # noqa: N818
        pass

    def work():
        raise Local("of this function alone")

    with pytest.raises(RuntimeError, match="Local: of this function alone"):
        run_apart(work, Tries("sample", lambda: ""))


STAGE = """
import dataclasses, json, os, signal, sys, time
from pathlib import Path
from srpo.core.execution.stage import Stage, execute_or_exit

Empty = dataclasses.make_dataclass("Empty", [], frozen=True)
Outputs = dataclasses.make_dataclass("Outputs", [("samples", Path)], frozen=True)

def run(config, inputs, outputs, context):
    blocks = context.state / "blocks"
    blocks.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        if not (blocks / str(number)).exists():
            (blocks / str(number)).touch()
            if number == 1 or "wait" in sys.argv:
                print(os.getpid(), flush=True)
                time.sleep(60) if "wait" in sys.argv else os.kill(os.getpid(), signal.SIGKILL)
    (outputs.samples / "number.json").write_text(json.dumps(number))

stage = Stage("sample", Empty, Empty, Outputs, run, place=lambda state: len(list(state.glob("blocks/*"))))
print(execute_or_exit(stage, {}, sys.argv[1], {}, {"samples": Path(sys.argv[1]) / "out"}))
"""


def program(tmp_path, *arguments):
    (tmp_path / "container.py").write_text(textwrap.dedent(STAGE))
    return [sys.executable, tmp_path / "container.py", tmp_path / "workspace", *arguments]


def test_a_container_outlives_the_death_of_its_work(tmp_path):
    done = subprocess.run(program(tmp_path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "srpo: sample: the process that works was killed by SIGKILL" in done.stdout
    assert json.loads((tmp_path / "workspace/out/number.json").read_text()) == 2


def test_the_work_does_not_outlive_the_container(tmp_path):
    with subprocess.Popen(program(tmp_path, "wait"), stdout=subprocess.PIPE, text=True) as process:
        worker = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{worker}/exe").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{worker}/exe").exists()
