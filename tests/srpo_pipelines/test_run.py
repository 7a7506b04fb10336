"""`srpo run` over stages that do next to nothing: the real package, the real local runner, the real command."""

import filecmp
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from fakes import Project

from srpo.configure.parameters import STAGES


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project that has run once, with a prompt file."""
    project = Project(tmp_path_factory.mktemp("finished"))
    (project.folder / "prompts.txt").write_text("a cat\n")
    project.code, project.shown = project.run("--set", "prompts=prompts.txt")
    return project


def summary(project):
    return json.loads((project.output / "summary.json").read_text())


def ran(project):
    return set(STAGES) - set(summary(project)["reused"])


def test_a_run_ends_with_table_verdict_and_paths(finished):
    assert finished.code == 0, finished.shown
    for text in ("+0.4000 [+0.3000, +0.5000]", "verdict: better", "content stays", "report.html", "releases/r1"):
        assert text in finished.shown
    for stage in STAGES:
        assert re.search(rf"\] {stage}( 2 of 2)?: done, [\d.]+ s", finished.shown), stage
    assert "train 2/2  loss 0.25" in finished.shown or "train 1/2  loss 0.5" in finished.shown
    assert "KFP Executor" not in finished.shown  # that is for the log
    assert "KFP Executor" in next((finished.output / "logs").glob("*.log")).read_text()
    assert (finished.output / "report.html").read_text() == "<!doctype html>evaluate"


def test_summary_of_a_run(finished):
    found = json.loads((finished.output / "summary.json").read_text())
    assert found["before"] == {"srp": 0.1, "held_out": 0.2, "p_realistic": 0.3, "content": 0.95, "frechet": 40.0}
    assert found["delta"]["p_realistic"] == {"mean": 0.4, "low": 0.3, "high": 0.5}
    assert found["delta"]["srp"] == {"mean": None, "low": None, "high": None}
    assert found["candidate"] is True
    assert set(found["seconds"]) == set(STAGES)
    assert found["release"] == str(finished.output / "releases/r1")


def test_the_run_used_the_package_that_compile_writes(finished, tmp_path):
    code, shown = finished.srpo("compile", "--output", str(tmp_path))
    assert code == 0, shown
    assert filecmp.cmp(tmp_path / "align.yaml", finished.output / "align.yaml", shallow=False)


def test_both_shards_reach_evaluate(finished):
    samples = (finished.output / "workspace/stages/sample").glob("*/samples/content.json")
    assert sorted(json.loads(path.read_text())["shard"] for path in samples) == [0, 1]
    (manifest,) = (finished.output / "workspace/stages/evaluate").glob("*/manifest.json")
    assert len(json.loads(manifest.read_text())["inputs"]["samples"]) == 2


def test_what_is_unchanged_is_reused(finished):
    """Again: nothing runs. One line of code, one prompt: exactly that and what depends on it."""
    again = ("--set", "prompts=prompts.txt")
    assert finished.run(*again)[0] == 0
    assert ran(finished) == set()

    finished.edit("encode_prompts", "edited = True")
    assert finished.run(*again)[0] == 0
    assert ran(finished) == {"encode_prompts", "train", "sample", "evaluate", "rating_page", "export"}

    (finished.folder / "prompts.txt").write_text("a dog\n")
    assert finished.run(*again)[0] == 0
    assert ran(finished) == set(STAGES) - {"fetch_base"}


def test_another_number_of_shards_does_not_retrain(finished):
    assert finished.run("--set", "prompts=prompts.txt", "--set", "sample_shards=1")[0] == 0
    assert ran(finished) <= {"sample", "evaluate", "rating_page", "export"}
    assert "sample" in ran(finished)


@pytest.mark.parametrize(
    ("line", "code", "last"),
    [
        ('raise InputError("prompts is 7: it must be text")', 2, "srpo: train: prompts is 7: it must be text"),
        ('raise RuntimeError("loss is NaN")', 1, "srpo: train: RuntimeError: loss is NaN"),
        ("raise OSError(28, 'No space left on device')", 1, r"srpo: train: no space left on the disk of /.*"),
        ("import os; os.kill(os.getpid(), 9)", 1, r"srpo: train: ended without an error of its own \(killed.*"),
    ],
)
def test_a_failing_stage_has_the_last_word(project, line, code, last):
    tries = project.folder / "tries"
    project.edit("train", f"open({str(tries)!r}, 'a').write('x'); {line}")
    found, shown = project.run()
    assert found == code, shown
    assert re.fullmatch(last, shown.strip().splitlines()[-1]), shown
    assert tries.read_text() == "x"  # KFP would try again after half a minute, and then again
    assert not (project.output / "summary.json").exists()
    assert list((project.output / "workspace/stages/prepare_prompts").glob("*/manifest.json"))


def test_interrupt_ends_every_process_and_keeps_what_has_finished(project):
    pids = project.folder / "pids"
    # Two processes in training; one in a session of its own, as torchrun starts its workers.
    wait = (
        "import os, subprocess; child = subprocess.Popen(['sleep', '300'], start_new_session=True); "
        f"Path({str(pids)!r}).write_text(f'{{os.getpid()}} {{child.pid}}'); time.sleep(300)"
    )
    project.edit("train", wait)
    process = project.start("run", "--output", str(project.output), start_new_session=True)
    wait_for(lambda: pids.is_file() and len(pids.read_text().split()) == 2, process)
    os.killpg(process.pid, signal.SIGINT)
    shown, _ = process.communicate(timeout=30)
    assert process.returncode == 130, shown
    assert shown.strip().splitlines()[-1].startswith("srpo: interrupted")
    for pid in pids.read_text().split():
        assert gone(int(pid)), pid

    train = project.folder / "package/srpo/train/run.py"
    train.write_text(train.read_text().replace(wait, "pass"))
    code, shown = project.run()
    assert code == 0, shown
    assert ran(project) == {"train", "sample", "evaluate", "rating_page", "export"}


def test_when_the_run_is_killed_all_that_it_started_dies_with_it(project):
    """And the next one goes on at once, with nobody at work beside it."""
    pids = project.folder / "pids"
    wait = (
        "import os, subprocess; child = subprocess.Popen(['sleep', '300'], start_new_session=True); "
        f"Path({str(pids)!r}).write_text(f'{{os.getpid()}} {{child.pid}}'); time.sleep(300)"
    )
    project.edit("train", wait)
    process = project.start("run", "--output", str(project.output), start_new_session=True)
    wait_for(lambda: pids.is_file() and len(pids.read_text().split()) == 2, process)
    process.kill()
    process.wait()
    for pid in pids.read_text().split():
        assert gone(int(pid)), pid
    train = project.folder / "package/srpo/train/run.py"
    train.write_text(train.read_text().replace(wait, "pass"))
    place = Path(tempfile.gettempdir())
    left = [path for path in place.glob("srpo-run.*") if f"-{process.pid}-" in path.name]
    assert left, "killed, it could not remove its own"
    code, shown = project.run()
    assert code == 0, shown
    assert not any(path.exists() for path in left)
    assert not list(project.output.glob("workspace/stages/*/.*.partial"))


def wait_for(condition, process: "subprocess.Popen[str]") -> None:
    for _ in range(600):
        if condition():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    raise AssertionError("nothing happened for a minute")


def gone(pid: int) -> bool:
    """Whether the process has ended, allowing a moment for it to be collected."""
    for _ in range(50):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.is_file() or stat.read_text().rpartition(")")[2].split()[0] in "ZX":
            return True
        time.sleep(0.1)
    return False
