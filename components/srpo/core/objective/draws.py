"""Everything random in a run, as a function of (seed, purpose, step, sample): never of a rank or of what ran before.

So a run that was interrupted goes on with the very numbers it would have drawn, on any number of processes.
"""

import hashlib
import random
from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int, purpose: str, *parts: int | str) -> torch.Generator:
    """A CPU generator of its own for (seed, purpose, parts); parts are step and sample numbers, or a prompt's id."""
    return torch.Generator().manual_seed(_hash(seed, purpose, *parts))


def noise(shape: Sequence[int], seed: int, purpose: str, *parts: int | str) -> Tensor:
    """Standard normal float32 noise of ``shape`` on the CPU, the same on every machine."""
    return torch.randn(*shape, generator=generator(seed, purpose, *parts))


def word_pair(positive: Sequence[str], negative: Sequence[str], seed: int, *numbers: int) -> tuple[str, str]:
    """The pair of control words of a step (or sample): one of each list, uniformly."""
    chooser = random.Random(_hash(seed, "words", *numbers))
    return chooser.choice(positive), chooser.choice(negative)


def _hash(seed: int, purpose: str, *parts: int | str) -> int:
    text = ":".join([str(seed), purpose, *map(str, parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
