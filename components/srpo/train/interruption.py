"""How a rank is ended by SIGTERM: it is heard between the pieces of a step, and all ranks stop together."""

import signal

import torch
import torch.distributed as dist


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
