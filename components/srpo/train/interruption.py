"""How a rank is ended: SIGTERM is heard between the pieces of a step, and no rank outlives its launcher."""

import ctypes
import os
import signal
import sys

import torch
import torch.distributed as dist

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Interrupted(Exception):  # noqa: N818  # not an error
    """SIGTERM has reached a rank: raised on all of them at the same place."""


class Interruption:
    """Hears SIGTERM from its creation on; the ranks ask together whether it came, and stop together."""

    def __init__(self) -> None:
        self.heard = False
        self.device = torch.device("cpu")
        signal.signal(signal.SIGTERM, self._hear)

    def _hear(self, *arguments: object) -> None:
        self.heard = True

    def check(self) -> None:
        """Called by all ranks at the same places, every few seconds of work; raises :class:`Interrupted` on all."""
        answer = torch.tensor(float(self.heard), device=self.device)
        dist.all_reduce(answer, dist.ReduceOp.MAX)
        if answer.item():
            raise Interrupted


def end_with_parent() -> None:
    """Ask Linux to kill this process when the one that started it dies.

    torchrun puts its workers into sessions of their own. Were it killed, they would train on, and write to the folder
    that the next try reads.
    """
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os.kill(os.getpid(), signal.SIGKILL)
