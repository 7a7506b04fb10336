"""Work that was killed is begun again in the same task, a few times: the cluster may not do so (docs/cluster.md).

Only a killed process is: the kernel took it for its memory, a library crashed, somebody ended it. What raises an error
would raise it again.
"""

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

MOST = 3  # tries after the first
ASKED = (signal.SIGTERM, signal.SIGINT)  # who sends these wants an end
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class KilledError(RuntimeError):
    """A process that the work had started itself was killed."""


class Tries:
    """How often work called ``name`` is begun again; ``place`` says how far it has come, in whatever form.

    Twice at one place is once too often: what kills it there will kill it again.
    """

    def __init__(self, name: str, place: Callable[[], Any]) -> None:
        self.name, self.place = name, place
        self.made = 0
        self.before: Any = None

    def again(self, reason: str) -> bool:
        """Whether to begin again after ``reason``; says so in the log, and why not."""
        place = self.place()
        if self.made and place == self.before:
            return self._say(f"{reason}, again before anything more was finished: not tried again")
        if self.made == MOST:
            return self._say(f"{reason}, for the {MOST + 1}th time: not tried again")
        self.made, self.before = self.made + 1, place
        self._say(f"{reason}: goes on from what is finished (try {self.made} of {MOST})")
        return True

    def _say(self, text: str) -> bool:
        print(f"srpo: {self.name}: {text}", flush=True)
        return False


def killed_by(number: int) -> str:
    """What became of a process that the signal ``number`` ended, and what that means as a rule."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"killed by {name}" + (", as the kernel does when memory is short" if number == signal.SIGKILL else "")


def run_apart(work: Callable[[], None], tries: Tries) -> None:
    """Run ``work`` in a process of its own, again if that is killed. What it raises is raised here.

    To be called before threads are started and before CUDA is used: the process is a fork of this one.

    Raises:
        KilledError: it was killed, or said so of a process of its own, and ``tries`` are used up.
    """
    if sys.platform != "linux":  # elsewhere a fork is not safe, and no cluster runs there
        work()
        return
    while True:
        try:
            number = _in_a_child(work)
            if number is None:
                return
            if number in ASKED:
                raise SystemExit(128 + number)
            raise KilledError(f"the process that works was {killed_by(number)}")
        except KilledError as error:
            if not tries.again(str(error)):
                raise


def _in_a_child(work: Callable[[], None]) -> int | None:
    """Returns the signal that ended the child, or None where it has done its work; raises what that raised."""
    forks = multiprocessing.get_context("fork")
    receiving, sending = forks.Pipe(duplex=False)
    process = forks.Process(target=_child, args=(work, sending, os.getpid()))
    sys.stdout.flush()
    process.start()
    sending.close()
    try:
        told = receiving.recv()
    except EOFError:  # it was killed
        told = None
    except BaseException:  # Ctrl-C here: it must not outlive us
        process.terminate()
        raise
    finally:
        process.join()
    if isinstance(told, BaseException):
        raise told
    return None if told else -(process.exitcode or 0)


def _child(work: Callable[[], None], sending: Connection, parent: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before this was asked
        os.kill(os.getpid(), signal.SIGKILL)
    told: Any = True
    try:
        work()
    except BaseException as error:
        told = _sendable(error)
    sending.send(told)


def _sendable(error: BaseException) -> BaseException:
    """``error`` with its traceback as a note; another one of its words where it cannot be sent."""
    told = f"{type(error).__name__}: {error}"
    error.add_note(f"in the process that works:\n{''.join(traceback.format_exception(error))}")
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return RuntimeError(told)
