"""Paired comparisons that respect clusters: images of one prompt are not independent, so whole prompts are resampled.

Pure functions of numpy arrays. ``P`` is the number of prompts (clusters), ``N`` of rows, ``K`` of measured names, ``R``
of resamples.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import gammaincinv, ndtr, stdtrit

Array = NDArray[np.float64]
BLOCK = 256  # resamples handled at once in the sign-flip test: bounds the memory


class Interval(NamedTuple):
    """Estimates and their interval, each [K]; ``error`` is the standard error."""

    mean: Array
    low: Array
    high: Array
    error: Array


def draw_weights(clusters: int, resamples: int, seed: int) -> Array:
    """How often each cluster is drawn in each resample with replacement: [R, P], rows sum to P."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float64)


def mean_interval(values: Array, cluster: NDArray[np.int64], confidence: float) -> Interval:
    """Mean of ``values`` [N, K] with an interval over clusters (``cluster`` [N] in 0..P-1, at least two).

    Each end is the farther one of two intervals: Student's, and Hall's for a skewed spread (P. Hall, "On the removal of
    skewness by transformation", 1992). Where all values of a column are equal, it is [mean, mean].
    """
    sums, counts = cluster_sums(values, cluster)
    total, prompts = counts.sum(), len(counts)
    mean = sums.sum(0) / total
    away = (sums - mean * counts[:, None]) * prompts / total  # what each cluster adds to the mean, less the mean
    spread = np.sqrt(np.square(away).sum(0) / (prompts - 1))
    error = spread / np.sqrt(prompts)
    skew = (away**3).mean(0) / np.where(spread > 0, spread, 1) ** 3
    t = float(stdtrit(prompts - 1, (1 + confidence) / 2))
    low, high = mean - np.maximum(t, _of_skewed(t, skew, prompts)) * error, mean + t * error
    high = np.maximum(high, mean - _of_skewed(-t, skew, prompts) * error)
    return Interval(mean + 0.0, low + 0.0, high + 0.0, error)  # + 0.0 turns -0.0 into 0.0


def _of_skewed(t: float, skew: Array, clusters: int) -> Array:
    """The value of Student's statistic under ``skew`` [K] that has the rank of ``t`` without it: Hall's inverse."""
    root = np.sqrt(clusters)
    slant = np.where(np.abs(skew) > 1e-6, skew, 1)  # without skew it is t itself
    bent = 3 * root / slant * (np.cbrt(1 + slant * (t / root - slant / (6 * clusters))) - 1)
    return np.where(np.abs(skew) > 1e-6, bent, t)


def levels(confidence: float, clusters: int) -> tuple[float, float]:
    """The percentiles to read of resamples of P clusters.

    Plain ones are too narrow for few clusters: a resample varies by (P-1)/P of what it should, and the normal ignores
    that the spread was estimated. Both are put right by reading further out (T. Hesterberg, "What teachers should know
    about the bootstrap", 2015, expanded percentiles).
    """
    t = float(stdtrit(clusters - 1, (1 + confidence) / 2)) * np.sqrt(clusters / (clusters - 1))
    return float(ndtr(-t)), float(ndtr(t))


def bootstrap_statistic(
    statistic: Callable[[Array], Array], cluster: NDArray[np.int64], weights: Array, confidence: float
) -> Interval:
    """Intervals of any ``statistic`` (row weights [N] -> [K]) over clusters.

    The draws are moved to centre on the estimate first: a distance between distributions is larger in every resample
    (rows repeat), and plain percentiles would leave the estimate outside of its own interval.
    """
    mean = statistic(np.ones(len(cluster)))
    draws = np.stack([statistic(row[cluster]) for row in weights])
    draws += mean - draws.mean(0)
    low, high = np.quantile(draws, levels(confidence, weights.shape[1]), axis=0)
    return Interval(mean + 0.0, low + 0.0, high + 0.0, draws.std(0, ddof=1))


def sign_flip_p(differences: Array, cluster: NDArray[np.int64], resamples: int, seed: int) -> Array:
    """Two-sided p-values [K] that the mean of ``differences`` [N, K] is not 0.

    If before and after were exchangeable, each prompt's difference could as well have the other sign: exact however
    few prompts there are. Where all 2^P choices of signs are no more than ``resamples``, each is counted once; else
    signs are drawn. All zero gives 1.
    """
    sums, _ = cluster_sums(differences, cluster)
    observed = np.abs(sums.sum(0))
    slack = 1e-12 * np.abs(sums).sum(0)  # the same sum in another order must count as equal
    extreme = np.zeros(sums.shape[1])
    exact = enumerable(len(sums), resamples)
    if exact:  # the observed signs are among them
        resamples = 1 << len(sums)
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, BLOCK):
        rows = np.arange(start, min(start + BLOCK, resamples))
        if exact:
            signs = (rows[:, None] >> np.arange(len(sums)) & 1) * 2.0 - 1
        else:
            signs = generator.integers(0, 2, (len(rows), len(sums))) * 2.0 - 1
        extreme += (np.abs(signs @ sums) >= observed - slack).sum(0)
    return extreme / resamples if exact else (1 + extreme) / (1 + resamples)


def enumerable(clusters: int, resamples: int) -> bool:
    """Whether all choices of signs are counted, rather than some drawn."""
    return clusters < 63 and 1 << clusters <= resamples


def smallest_p(clusters: int, resamples: int) -> float:
    """The smallest p-value that :func:`sign_flip_p` can give: that of prompts which all moved the same way."""
    return 2.0 ** (1 - clusters) if enumerable(clusters, resamples) else max(2.0 ** (1 - clusters), 1 / (1 + resamples))


def clusters_needed(tests: int, alpha: float) -> int:
    """The fewest prompts with which a sign-flip test can reject at level ``alpha`` as one of ``tests`` (Holm)."""
    return next(clusters for clusters in range(2, 1000) if 2.0 ** (1 - clusters) * tests < alpha)


def swap_p(
    statistic: Callable[[NDArray[np.bool_]], float], cluster: NDArray[np.int64], resamples: int, seed: int
) -> float:
    """As :func:`sign_flip_p` for any ``statistic`` of which rows [N] are swapped between before and after."""
    observed = abs(statistic(np.zeros(len(cluster), bool)))
    generator = np.random.default_rng(seed)
    flips = generator.integers(0, 2, (resamples, int(cluster.max()) + 1)).astype(bool)
    extreme = sum(abs(statistic(row[cluster])) >= observed * (1 - 1e-9) for row in flips)
    return (1 + extreme) / (1 + resamples)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm-Bonferroni adjusted p-values: below alpha where the family-wise error rate alpha rejects."""
    adjusted, largest = {}, 0.0
    ordered = sorted(p_values.items(), key=lambda item: (item[1], item[0]))
    for rank, (name, p) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p))
        adjusted[name] = largest
    return adjusted


def benjamini_hochberg(p_values: Mapping[str, float]) -> dict[str, float]:
    """Benjamini-Hochberg adjusted p-values: below alpha where the false discovery rate alpha rejects."""
    adjusted, smallest = {}, 1.0
    ordered = sorted(p_values.items(), key=lambda item: (item[1], item[0]))
    for rank in range(len(ordered), 0, -1):
        name, p = ordered[rank - 1]
        smallest = min(smallest, p * len(ordered) / rank)
        adjusted[name] = smallest
    return {name: adjusted[name] for name in p_values}


def smallest_effect(error: Array, clusters: int, alpha: float, power: float) -> Array:
    """The smallest true mean difference [K] that a two-sided t-test at ``alpha`` finds with probability ``power``.

    ``error`` [K] is the standard error over P clusters: what this sample could have shown, whatever it did show.
    """
    freedom = clusters - 1
    critical = float(stdtrit(freedom, 1 - alpha / 2))
    # How far the estimated spread is from the true one, at evenly spaced quantiles: chi over the root of its freedom.
    chances = (np.arange(4000) + 0.5) / 4000
    spread = np.sqrt(2 * gammaincinv(freedom / 2, chances) / freedom)

    def missing(shift: float) -> float:
        return power - float((ndtr(shift - critical * spread) + ndtr(-shift - critical * spread)).mean())

    return error * float(brentq(missing, 0.0, 8 * critical + 20.0))


def cluster_sums(values: Array, cluster: NDArray[np.int64]) -> tuple[Array, Array]:
    """Sums [P, K] of the rows of each cluster, and the number of its rows [P]."""
    counts = np.bincount(cluster).astype(np.float64)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, cluster, values)
    return sums, counts
