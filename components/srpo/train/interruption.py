"""How ranks are ended from outside: it is heard between the pieces of a step, and all ranks stop together."""

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist


class Interrupted(Exception):  # noqa: N818  # not an error
    """The ranks shall end: raised on all of them at the same place."""


class Heartbeat:
    """A file whose content changes while the launcher of several nodes lives; ranks outlive it by ``patience`` seconds.

    A launcher that is lost is tried again by Kubeflow, in minutes, and finds its job: that long the ranks go on.
    """

    def __init__(self, file: Path, patience: float = 1200.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.file, self.patience, self.clock = file, patience, clock
        self.seen, self.since = b"", clock()

    def stopped(self) -> bool:
        """Whether it has not changed for too long, by our own clock. A file that cannot be read has not changed."""
        with contextlib.suppress(OSError):
            found = self.file.read_bytes()
            if found != self.seen:
                self.seen, self.since = found, self.clock()
        return self.clock() - self.since > self.patience


class Interruption:
    """Hears SIGTERM, and a heartbeat that stops; the ranks ask together whether one of them did, and stop together."""

    def __init__(self, heartbeat: Heartbeat | None = None) -> None:
        self.heard, self.heartbeat = False, heartbeat
        self.device = torch.device("cpu")
        signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, *arguments: object) -> None:
        self.heard = True

    def check(self) -> None:
        """Called by all ranks at the same places, every few seconds of work; raises :class:`Interrupted` on all."""
        if self.heartbeat is not None and self.heartbeat.stopped():
            self.heard = True
        answer = torch.tensor(float(self.heard), device=self.device)
        dist.all_reduce(answer, dist.ReduceOp.MAX)
        if answer.item():
            raise Interrupted
