"""In which order, and on which side, one rater sees the items: drawn from the rater's own seed.

The rating page draws the same in its own language (``plan`` in the page's template), so that an import can tell whether
a file holds exactly what this rater was shown. A test holds the two against each other.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

RATER = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
MASK = 0xFFFFFFFF


class Shown(NamedTuple):
    """One place in a rater's order."""

    item: str
    repeat: bool  # shown before: measures how far the rater agrees with themselves
    swapped: bool  # the pair's second image is on the left


def plan(seed: str, rater: str, items: Mapping[str, str], repeat_share: float, per_rater: int) -> list[Shown]:
    """The order for ``rater``: the items of ``per_rater`` groups (0: of all), and some of them a second time.

    ``items`` names the group of each item: what belongs to one prompt is rated by the same people. All are opaque ids,
    and their order here does not matter. Repeats are the first items of the order, shown again somewhere in its second
    half.
    """
    draws = _numbers(fnv1a(f"{seed}/{rater}"))
    groups = set(_shuffled(sorted(set(items.values())), draws)[: per_rater or None])
    kept = sorted(item for item, group in items.items() if group in groups)
    order = [Shown(item, False, False) for item in _shuffled(kept, draws)]
    again = [shown.item for shown in order[: repeats_of(len(kept), repeat_share)]]
    for item in again:
        half = (len(order) + 1) // 2
        order.insert(half + _below(len(order) - half + 1, draws), Shown(item, True, False))
    return [shown._replace(swapped=bool(next(draws) & 1)) for shown in order]


def repeats_of(items: int, share: float) -> int:
    """How many of ``items`` are shown twice: at least one where any is asked for."""
    return min(items, max(1, int(items * share + 0.5))) if share > 0 and items else 0


def fnv1a(text: str) -> int:
    """The 32-bit FNV-1a hash of a text as UTF-8."""
    value = 0x811C9DC5
    for byte in text.encode():
        value = (value ^ byte) * 0x01000193 & MASK
    return value


def _numbers(state: int) -> Iterator[int]:
    """Mulberry32: whole numbers of 32 bits, simple enough to be the same in every language."""
    while True:
        state = (state + 0x6D2B79F5) & MASK
        value = (state ^ state >> 15) * (state | 1) & MASK
        value ^= (value + ((value ^ value >> 7) * (value | 61) & MASK)) & MASK
        yield value ^ value >> 14


def _below(count: int, draws: Iterator[int]) -> int:
    return next(draws) * count >> 32


def _shuffled(values: list[str], draws: Iterator[int]) -> list[str]:
    for place in range(len(values) - 1, 0, -1):
        other = _below(place + 1, draws)
        values[place], values[other] = values[other], values[place]
    return values
