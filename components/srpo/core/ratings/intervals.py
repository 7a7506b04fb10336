"""Means over ratings with intervals that hold for other prompts *and* other raters.

Every rater grades (nearly) every prompt, so a rating shares its prompt with some ratings and its rater with others, and
neither alone makes a sample. The variance of the mean is put together from both, minus what would count twice (Cameron,
Gelbach and Miller 2011; for a whole table it is the analysis of variance of a crossed random design), and the interval
is Student's with Satterthwaite's degrees of freedom: a bootstrap of three raters has three things to draw from and
would be far too narrow. ``N`` is the number of ratings, ``K`` of columns.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
TINY = 1e-9  # an error below this is none: what is left of equal numbers


class Mean(NamedTuple):
    """Estimates, their standard errors and degrees of freedom, each [K]; infinite and 1 where nothing can be said."""

    mean: Array
    error: Array
    freedom: Array

    def interval(self, confidence: float) -> tuple[Array, Array]:
        """Both ends, each [K]."""
        reach = np.where(np.isinf(self.error), np.inf, stdtrit(self.freedom, (1 + confidence) / 2) * self.error)
        return self.mean - reach, self.mean + reach


def two_way(values: Array, prompt: Labels, rater: Labels) -> Mean:
    """Mean of ``values`` [N, K], whose row n is about ``prompt[n]`` and by ``rater[n]`` (labels 0, 1, ...).

    With a single prompt or a single rater nothing is known of the others: the error is infinite.
    """
    mean = values.mean(0)
    cells, place = np.unique(np.stack([prompt, rater]), axis=1, return_inverse=True)
    away = sums(values - mean, place.reshape(-1), cells.shape[1])  # [C, K]: of one rater about one prompt
    groups = [np.unique(labels, return_inverse=True)[1] for labels in cells]
    sizes = [int(group.max()) + 1 for group in groups]
    if min(sizes) < 2:
        return Mean(mean, np.full_like(mean, np.inf), np.ones_like(mean))
    parts = [
        np.square(sums(away, group, size)).sum(0) * size / (size - 1) for group, size in zip(groups, sizes, strict=True)
    ]
    free = max(1, len(away) - sum(sizes) + 1)
    rest = np.square(without_effects(away, groups, sizes)).sum(0) * len(away) / free
    # In expectation each of them is at most the variance; by chance the sum can come out below, even at nothing.
    total = np.maximum.reduce([parts[0] + parts[1] - rest, *parts, rest])
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = sum(np.square(part) / (size - 1) for part, size in zip(parts, sizes, strict=True))
        freedom = np.square(total) / (spread + np.square(rest) / free)
    freedom = np.maximum(np.nan_to_num(freedom, nan=1.0), min(sizes) - 1)
    return Mean(mean + 0.0, np.sqrt(total) / len(values), freedom)


def share(values: Array, prompt: Labels, rater: Labels, confidence: float) -> tuple[Array, Array, Array]:
    """Mean and ends of the interval of shares: ``values`` [N, K] are 0 or 1, and the ends stay between them.

    Wilson's interval on as many independent ratings as have the same variance; where all ratings agree, which says
    nothing of the variance, on the number of prompts.
    """
    found = two_way(values, prompt, rater)
    p = found.mean
    with np.errstate(invalid="ignore", divide="ignore"):
        count = p * (1 - p) / np.square(found.error)
    known = found.error > TINY
    count = np.where(known, count, len(np.unique(prompt)))
    z2 = np.square(stdtrit(np.where(known, found.freedom, np.inf), (1 + confidence) / 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = (p + z2 / (2 * count)) / (1 + z2 / count)
        reach = np.sqrt(z2 * (p * (1 - p) / count + z2 / (4 * np.square(count)))) / (1 + z2 / count)
    unknown = np.isinf(found.error)
    low, high = np.where(unknown, 0.0, middle - reach), np.where(unknown, 1.0, middle + reach)
    return p, np.clip(low, 0, p), np.clip(high, p, 1)


def sums(values: Array, group: Labels, groups: int) -> Array:
    """Sums [groups, K] of the rows of ``values`` [N, K] that have the same label."""
    total = np.zeros((groups, values.shape[1]))
    np.add.at(total, group, values)
    return total


def without_effects(values: Array, groups: list[Labels], sizes: list[int]) -> Array:
    """``values`` [C, K] less the effects of both groupings: exact at once where the table is whole, else by sweeps."""
    rest, counts = (
        values,
        [np.bincount(group, minlength=size)[:, None] for group, size in zip(groups, sizes, strict=True)],
    )
    for _ in range(100):
        before = rest
        for group, size, count in zip(groups, sizes, counts, strict=True):
            rest = rest - (sums(rest, group, size) / count)[group]
        if np.abs(rest - before).max(initial=0) <= 1e-9 * max(1.0, np.abs(values).max(initial=0)):
            break
    return rest
