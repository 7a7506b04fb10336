"""A process and all that it starts, ended together."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

GRACE = 5.0  # seconds between asking and killing


def stop(process: "subprocess.Popen[str]") -> None:
    """End ``process`` (the leader of its own session) and every descendant: first as by Ctrl-C, then by force.

    Descendants are found by their parents, since `torchrun` puts its workers into sessions of their own.
    """
    doomed = descendants(process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + GRACE
    try:
        while time.monotonic() < deadline and (process.poll() is None or any(map(alive, doomed))):
            time.sleep(0.05)
    finally:  # a second Ctrl-C ends the waiting, never the killing
        for pid in doomed | descendants(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def descendants(root: int) -> set[int]:
    """Process ids of all below ``root``, as of now."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # "pid (name) state parent ...": the name may hold anything, so read from its closing bracket on.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: set[int] = set()
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), []):
            found.add(child)
            waiting.append(child)
    return found


def alive(pid: int) -> bool:
    """Whether the process still runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"
