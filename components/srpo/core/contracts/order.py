"""The order in which training draws its prompts: a function of the seed alone; needs no torch."""

import hashlib
import random


def prompt_order(count: int, total: int, seed: int) -> list[int]:
    """Indices of the prompts that the training draws, in order: whole shuffled passes over ``total`` prompts.

    Args:
        count: how many are drawn (steps x batch size).
        total: how many prompts there are, at least 1.
    """
    order: list[int] = []
    while len(order) < count:
        epoch = list(range(total))
        random.Random(_hash(seed, len(order) // total)).shuffle(epoch)
        order += epoch
    return order[:count]


def _hash(seed: int, epoch: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:prompts:{epoch}".encode()).digest()[:8], "big")
