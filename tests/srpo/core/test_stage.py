"""Stages by content key: reuse, what changes a key, results that appear whole, exit codes."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from srpo.core.contracts.errors import InputError, require
from srpo.core.execution import stage as stage_module
from srpo.core.execution.alive import mark
from srpo.core.execution.code import sources
from srpo.core.execution.stage import RECORD_VARIABLE, Stage, execute, execute_or_exit, whole_artifact


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    text: str = "hello"
    times: int = 1

    def __post_init__(self):
        require(self.times >= 1, "times", self.times, "a whole number of at least 1")


@dataclasses.dataclass(frozen=True)
class Nothing:
    pass


@dataclasses.dataclass(frozen=True)
class Out:
    words: Path
    report: Path


@dataclasses.dataclass(frozen=True)
class In:
    words: Path


@dataclasses.dataclass(frozen=True)
class Loud:
    loud: Path


RAN = []


def say(config, inputs, outputs, context):
    RAN.append("say")
    (outputs.words / "words.txt").write_text(config.text * config.times)
    outputs.report.write_text("<p>done")


def shout(config, inputs, outputs, context):
    RAN.append("shout")
    (outputs.loud / "loud.txt").write_text((inputs.words / "words.txt").read_text().upper())


SAY = Stage(name="export", config=Config, inputs=Nothing, outputs=Out, run=say)
SHOUT = Stage(name="train", config=Config, inputs=In, outputs=Loud, run=shout)


@pytest.fixture(autouse=True)
def _nothing_ran():
    RAN.clear()


def both(tmp_path, **config):
    execute(SAY, config, tmp_path, {}, {"words": tmp_path / "words", "report": tmp_path / "report.html"})
    execute(SHOUT, {}, tmp_path, {"words": tmp_path / "words"}, {"loud": tmp_path / "loud"})
    return (tmp_path / "loud" / "loud.txt").read_text()


def test_a_second_run_reuses_and_gives_the_same(tmp_path):
    assert both(tmp_path) == both(tmp_path) == "HELLO"
    assert RAN == ["say", "shout"]
    assert (tmp_path / "report.html").read_text() == "<p>done"


def test_a_changed_setting_runs_the_stage_and_what_depends_on_it(tmp_path):
    both(tmp_path)
    assert both(tmp_path, text="bye") == "BYE"
    assert RAN == ["say", "shout", "say", "shout"]
    both(tmp_path)  # the first result is still there
    assert len(RAN) == 4


def test_changed_code_runs_the_stage_and_what_depends_on_it(tmp_path, monkeypatch):
    both(tmp_path)
    digest = stage_module.code_digest
    monkeypatch.setattr(stage_module, "code_digest", lambda name: digest(name) + "x" * (name == "train"))
    both(tmp_path)
    assert RAN == ["say", "shout", "shout"]


def test_metrics_that_are_no_finite_numbers_are_left_out_and_told(tmp_path, capsys):
    """Kubeflow refuses them: the task would fail for good, with its result there."""

    @dataclasses.dataclass(frozen=True)
    class Measured:
        metrics: Path

    def measure(config, inputs, outputs, context):
        RAN.append("measure")
        outputs.metrics.write_text('{"loss": NaN, "steps": 3, "grad_norm": Infinity, "reward": 0.5}')

    stage = Stage(name="train", config=Config, inputs=Nothing, outputs=Measured, run=measure)
    for _ in range(2):
        execute(stage, {}, tmp_path, {}, {"metrics": tmp_path / "metrics.json"})
        assert json.loads((tmp_path / "metrics.json").read_text()) == {"steps": 3, "reward": 0.5}
    assert RAN == ["measure"]
    assert "left out of the metrics, not a finite number: loss, grad_norm" in capsys.readouterr().out


def test_a_fingerprint_changes_the_key(tmp_path):
    source = tmp_path / "source"
    source.write_text("a")
    watching = dataclasses.replace(SAY, fingerprint=lambda config: source.read_text())
    for content in ("a", "a", "b"):
        source.write_text(content)
        execute(watching, {}, tmp_path, {}, {})
    assert RAN == ["say", "say"]


def test_what_a_killed_try_left_is_removed_by_the_next_and_nobody_elses(tmp_path):
    folder = tmp_path / "stages" / "export"
    dead = subprocess.run(
        [sys.executable, "-c", "from srpo.core.execution.alive import mark; print(mark())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    elsewhere, long_ago = "0123abcd-7-99", time.time() - 100_000
    left = {
        f".k.{dead}.1.partial": False,  # of a process of this machine that has ended
        f".k.{mark()}.2.partial": True,  # of this one
        f".k.{elsewhere}.3.partial": True,  # of another machine, just now
        f".k.{elsewhere}.4.partial": False,  # of another machine, a day ago
        ".k.5.partial": True,
    }
    for name in left:
        (folder / name).mkdir(parents=True)
        if ".4." in name:
            os.utime(folder / name, (long_ago, long_ago))
    execute(SAY, {}, tmp_path, {}, {})
    assert {name: (folder / name).exists() for name in left} == left
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def test_a_result_whose_outside_parts_are_gone_is_made_again(tmp_path):
    standing = tmp_path / "standing"
    hooked = dataclasses.replace(SAY, intact=lambda result, workspace, known: "" if standing.exists() else "it is gone")
    standing.touch()
    for _ in range(2):
        execute(hooked, {}, tmp_path, {}, {})
    assert RAN == ["say"]
    standing.unlink()
    execute(hooked, {}, tmp_path, {}, {})
    assert RAN == ["say", "say"]


def test_of_two_at_once_the_second_waits_and_finds_the_result(tmp_path, capsys):
    begun = threading.Event()

    def slowly(config, inputs, outputs, context):
        begun.set()
        say(config, inputs, outputs, context)
        time.sleep(0.5)

    alone = dataclasses.replace(SAY, run=slowly, alone=True)
    first = threading.Thread(target=execute, args=(alone, {}, tmp_path, {}, {}))
    first.start()
    begun.wait()
    execute(alone, {}, tmp_path, {}, {"words": tmp_path / "words"})
    first.join()
    assert RAN == ["say"]
    assert (tmp_path / "words/words.txt").read_text() == "hello"
    assert "makes this very result: waiting for it" in capsys.readouterr().out


def test_the_turn_of_one_that_failed_is_the_next_ones(tmp_path):
    def fail(config, inputs, outputs, context):
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        execute(dataclasses.replace(SAY, run=fail, alone=True), {}, tmp_path, {}, {})
    execute(dataclasses.replace(SAY, alone=True), {}, tmp_path, {}, {})
    assert RAN == ["say"]


def test_a_failed_stage_leaves_nothing_behind(tmp_path):
    def fail(config, inputs, outputs, context):
        (outputs.words / "half.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        execute(dataclasses.replace(SAY, run=fail), {}, tmp_path, {}, {"words": tmp_path / "words"})
    assert not (tmp_path / "words").exists()
    assert list((tmp_path / "stages" / "export").iterdir()) == []


def test_an_output_that_was_not_written_is_an_error(tmp_path):
    silent = dataclasses.replace(SAY, run=lambda *arguments: None)
    with pytest.raises(RuntimeError, match="'report'"):
        execute(silent, {}, tmp_path, {}, {})


@pytest.mark.parametrize("damage", ["missing", "cut", "another", "unfinished"])
def test_a_damaged_input_is_named(tmp_path, damage):
    both(tmp_path)
    words = shutil.copytree(tmp_path / "words", tmp_path / "copy")
    if damage == "missing":
        (words / "words.txt").unlink()
        assert whole_artifact(words, tmp_path).is_relative_to(tmp_path / "stages")  # the workspace still has it
        shutil.rmtree(tmp_path / "stages" / "export")
    elif damage == "cut":
        (words / "words.txt").write_text("he")
    elif damage == "another":
        data = (words / "words.txt").read_bytes()
        (words / "words.txt").unlink()  # by a hard link the result itself has the same bytes
        (words / "words.txt").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    else:
        (words / "manifest.json").unlink()
    with pytest.raises(
        InputError,
        match="words.txt is missing, cut or not what export wrote" if damage != "unfinished" else "not a finished",
    ):
        execute(SHOUT, {}, tmp_path, {"words": words}, {"loud": tmp_path / "loud"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"times": -1}, "export.times is -1: it must be a whole number of at least 1"),
        ({"time": 2}, "did you mean 'times'"),
        ({"times": "two"}, "export.times is 'two': it must be a whole number"),
    ],
)
def test_bad_settings_exit_with_2_and_say_why_last(tmp_path, capsys, monkeypatch, config, message):
    record = tmp_path / "record"
    monkeypatch.setenv(RECORD_VARIABLE, str(record))
    with pytest.raises(SystemExit) as exit_:
        execute_or_exit(SAY, config, tmp_path, {}, {})
    assert exit_.value.code == 2
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last.startswith("srpo: export: ")
    assert message in last
    assert json.loads(record.read_text()) == {"stage": "export", "error": last[len("srpo: export: ") :], "code": 2}
    assert RAN == []


def test_a_failure_exits_with_1(tmp_path, capsys):
    def fail(config, inputs, outputs, context):
        raise FloatingPointError("the gradient is not finite")

    with pytest.raises(SystemExit) as exit_:
        execute_or_exit(dataclasses.replace(SAY, run=fail), {}, tmp_path, {}, {})
    assert exit_.value.code == 1
    assert capsys.readouterr().out.strip().endswith("FloatingPointError: the gradient is not finite")


def test_a_stage_depends_on_its_own_code_and_on_what_it_imports(tmp_path):
    root = Path(stage_module.__file__).parents[3]
    names = {path.relative_to(root / "srpo").as_posix() for path in sources("train", root)}
    assert {"train/run.py", "train/worker.py", "core/objective/direct_align.py", "core/storage/files.py"} <= names
    assert not any(name.startswith(("evaluate/", "export/", "prepare_prompts/", "sample/")) for name in names)
    names = {path.relative_to(root / "srpo").as_posix() for path in sources("fetch_base", root)}
    assert "fetch_base/catalogue.yaml" in names
