"""Start the local runner, keep its chatter in a log, show what matters, and tell a failure in the stage's own words."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from srpo.configure.promotion import ALL_STAGES
from srpo.core.execution import alive
from srpo.core.execution.stage import RECORD_VARIABLE
from srpo.core.storage.files import clear_left
from srpo_pipelines.errors import Failed
from srpo_pipelines.processes import dying_with_us, stop
from srpo_pipelines.terminal import Terminal

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
STARTED = re.compile(r"Executing task '([\w-]+)'")
FAILED = re.compile(r"finished with status FAILURE")
RAISED = re.compile(r"[\w.]*(Error|Exception): ")
FULL = re.compile(r"No space left on device|Disk quota exceeded")
TAIL = 400  # lines kept for finding out why a run ended


def run_package(package: Path, arguments: Mapping[str, Any], folder: Path, terminal: Terminal) -> list[dict[str, Any]]:
    """Run the compiled ``package`` unchanged and return the record of every stage process, in the order they ended.

    Everything is written below ``folder``: ``kfp`` (cleared first: it holds links to the results only) and ``logs``.

    Raises:
        Failed: a stage failed; the message is its own error.
        KeyboardInterrupt: after every process that was started has ended.
    """
    root, logs = folder / "kfp", folder / "logs"
    shutil.rmtree(root, ignore_errors=True)
    logs.mkdir(exist_ok=True)
    name = time.strftime("%Y%m%d-%H%M%S")
    log, record = logs / f"{name}.log", logs / f"{name}.jsonl"
    record.write_text("")
    # KFP leaves a folder in the temporary directory for each task; a directory of its own is cleared with the run.
    mark = f"{RECORD_VARIABLE}={record}"
    clear_left(Path(tempfile.gettempdir()), "srpo-run.*")
    with (
        tempfile.TemporaryDirectory(prefix=f"srpo-run.{alive.mark()}.", ignore_cleanup_errors=True) as scratch,
        dying_with_us(mark),
    ):
        given = Path(scratch) / "arguments.json"
        given.write_text(json.dumps(arguments), encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, "-m", "srpo_pipelines.local_runner", str(package), str(given), str(root)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ
            | {RECORD_VARIABLE: str(record), "TMPDIR": scratch, "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"},
            start_new_session=True,  # Ctrl-C reaches this process alone, which then ends all of them in order
        )
        watch = Watch(process, log, record, terminal)
        try:
            failed = watch.follow()
        finally:
            stop(process, mark)
            watch.drain()
            terminal.close()
    if failed or process.returncode:
        raise watch.reason(folder)
    return watch.records


class Watch:
    """Reads the output of the local runner and the records of the stages as they appear."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path, record: Path, terminal: Terminal) -> None:
        self.process = process
        self.log_path = log
        self.log: TextIO | None = log.open("w", encoding="utf-8")
        self.record = record
        self.read_to = 0
        self.terminal = terminal
        self.records: list[dict[str, Any]] = []
        self.tail: deque[str] = deque(maxlen=TAIL)

    def follow(self) -> bool:
        """Follow the run to its end, or to its first failure (then True): KFP would retry, or run what is left."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            text = self.keep(line)
            if match := STARTED.search(text):
                self.terminal.started(match[1].replace("-", "_"))
            elif text.startswith("srpo: ") and " waiting" in text:
                self.terminal.say(text)
            elif report := progress_of(text):
                self.terminal.progress(report)
            for record in self.new_records():
                if "error" in record:
                    return True
                self.terminal.finished(record["stage"], record["seconds"], record["reused"])
            if FAILED.search(text):
                return True
        return False

    def keep(self, line: str) -> str:
        """Write a line to the log; returns it without colours and indentation (KFP indents by patching print)."""
        text = COLOUR.sub("", line).strip()
        if text:
            self.tail.append(text)
        if self.log is not None:
            try:
                self.log.write(line)
                self.log.flush()
            except OSError as error:  # a full disk: the run goes on to its own error
                self.tail.append(str(error))
                self.log = None
        return text

    def new_records(self) -> Iterator[dict[str, Any]]:
        """The records that were added since the last call; a line still being written is left for later."""
        with self.record.open(encoding="utf-8") as file:
            file.seek(self.read_to)
            for line in iter(file.readline, ""):
                if not line.endswith("\n"):
                    break
                self.read_to = file.tell()
                self.records.append(json.loads(line))
                yield self.records[-1]

    def drain(self) -> None:
        """Keep what the ended processes still had to say."""
        assert self.process.stdout is not None
        os.set_blocking(self.process.stdout.fileno(), False)
        try:
            for line in self.process.stdout:
                self.keep(line)
        except (OSError, TypeError, ValueError):  # nothing more to read
            pass
        list(self.new_records())
        if self.log is not None:
            self.log.close()

    def reason(self, folder: Path) -> Failed:
        """Why the run failed: the first stage's own error; else a full disk; else what can be said."""
        errors = [record for record in self.records if "error" in record]
        # What was stopped because another stage failed says "interrupted"; that is not the reason.
        errors.sort(key=lambda record: record["code"] == 130)
        said = [text for text in self.tail if re.match(rf"srpo: ({'|'.join(['configure', *ALL_STAGES])}): ", text)]
        if any(FULL.search(text) for text in (errors[0]["error"] if errors else "", *self.tail)):
            where = f"{errors[0]['stage']}: " if errors else ""
            return Failed(
                f"srpo: {where}no space left on the disk of {folder}: make room and run the same again; "
                "what has finished is kept",
                1,
            )
        if errors:
            error = errors[0]
            shown = f"srpo: {error['stage']}: {error['error']}"
            return Failed(shown if error["code"] == 2 else f"log: {self.log_path}\n{shown}", error["code"])
        if said:
            return Failed(f"log: {self.log_path}\n{said[-1]}", 1)
        # No stage spoke: it could not be imported, it was killed, or KFP itself failed.
        raised = [text for text in self.tail if RAISED.match(text)]
        where = f"{self.terminal.running[0]}: " if self.terminal.running else ""
        silent = "ended without an error of its own (killed, perhaps for want of memory)"
        return Failed(f"log: {self.log_path}\nsrpo: {where}{raised[0] if raised else silent}", 1)


def progress_of(text: str) -> dict[str, Any] | None:
    """The progress that a stage reported on this line, if that is what it is."""
    if not text.startswith('{"stage"'):
        return None
    try:
        report = json.loads(text)
        if int(report["step"]) >= 0 and int(report["of"]) > 0 and report["stage"] in ALL_STAGES:
            return dict(report)
    except (ValueError, KeyError, TypeError):
        pass
    return None
