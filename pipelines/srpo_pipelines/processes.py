"""A process and all that it starts, ended together.

As a program (``processes.py NAME=value``) it waits until its standard input ends, and then kills what is so marked.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

GRACE = 5.0  # seconds between asking and killing
GRACE_KILLED = 60.0  # seconds for what was killed to go: one in the middle of a disk's work goes only after it


def stop(process: "subprocess.Popen[str]", mark: str) -> None:
    """End ``process`` (the leader of its own session) and all that it started: first as by Ctrl-C, then by force.

    What it started is known by ``mark``, a ``NAME=value`` of the environment they inherit: `torchrun` puts its workers
    into sessions of their own, and a worker whose parent was killed has another parent.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + GRACE
    try:
        while time.monotonic() < deadline and (process.poll() is None or marked(mark)):
            time.sleep(0.05)
    finally:  # a second Ctrl-C ends the waiting, never the killing
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        _kill(mark)
        process.wait()


@contextlib.contextmanager
def dying_with_us(mark: str) -> Iterator[None]:
    """Within, all that is marked dies with this process, even when that is killed without a word (SIGKILL, no memory).

    A small process in a session of its own reads a pipe whose other end is held here alone: it ends when we do.
    """
    command = [sys.executable, "-S", "-E", __file__, mark]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watcher:
        yield
        assert watcher.stdin is not None
        watcher.stdin.close()


def _kill(mark: str) -> None:
    """Kill until none is left: a signal needs a moment to work, and one that starts a program shows no environment."""
    deadline, quiet = time.monotonic() + GRACE_KILLED, 0
    while quiet < 3 and time.monotonic() < deadline:
        found = marked(mark)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        quiet = 0 if found else quiet + 1
        time.sleep(0.01)


def marked(mark: str) -> set[int]:
    """Ids of the running processes whose environment holds ``mark``."""
    found = set()
    for process in Path("/proc").iterdir():  # not a glob: it fails where one ends meanwhile
        with contextlib.suppress(OSError):  # ended meanwhile, or another user's
            if process.name.isdigit() and mark.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.add(int(process.name))
    return found


if __name__ == "__main__":
    sys.stdin.buffer.read()
    _kill(sys.argv[1])
