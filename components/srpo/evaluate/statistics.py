"""Paired comparisons that respect clusters: images of one prompt are not independent, so whole prompts are resampled.

Pure functions of numpy arrays. ``P`` is the number of prompts (clusters), ``N`` of rows, ``K`` of measured names, ``R``
of resamples.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]
BLOCK = 256  # resamples handled at once in the sign-flip test: bounds the memory


class Interval(NamedTuple):
    """Estimates and their interval, each [K]."""

    mean: Array
    low: Array
    high: Array


def draw_weights(clusters: int, resamples: int, seed: int) -> Array:
    """How often each cluster is drawn in each resample with replacement: [R, P], rows sum to P."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(np.float64)


def bootstrap_mean(values: Array, cluster: NDArray[np.int64], weights: Array, confidence: float) -> Interval:
    """Mean of ``values`` [N, K] with BCa bootstrap intervals over clusters (``cluster`` [N] in 0..P-1, weights [R, P]).

    A column that is the same in every resample has the interval [mean, mean].
    """
    sums, counts = cluster_sums(values, cluster)
    total = counts.sum()
    mean = sums.sum(0) / total
    draws = (weights @ sums) / (weights @ counts)[:, None]
    left_out = (sums.sum(0) - sums) / (total - counts)[:, None]
    pull = left_out.mean(0) - left_out
    spread = np.square(pull).sum(0) ** 1.5
    acceleration = np.divide((pull**3).sum(0), 6 * spread, out=np.zeros_like(mean), where=spread > 0)
    # Halves of ties count below, and the share never reaches 0 or 1, where the correction would be infinite.
    below = ((draws < mean).mean(0) + (draws <= mean).mean(0)) / 2
    bias = ndtri(np.clip(below, 1 / (len(draws) + 1), 1 - 1 / (len(draws) + 1)))
    ends = []
    for z in (ndtri((1 - confidence) / 2), ndtri((1 + confidence) / 2)):
        level = ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))
        ends.append(np.array([np.quantile(draws[:, k], level[k]) for k in range(len(mean))]))
    return Interval(mean + 0.0, ends[0] + 0.0, ends[1] + 0.0)  # + 0.0 turns -0.0 into 0.0


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
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Interval(mean + 0.0, low + 0.0, high + 0.0)


def sign_flip_p(differences: Array, cluster: NDArray[np.int64], resamples: int, seed: int) -> Array:
    """Two-sided p-values [K] that the mean of ``differences`` [N, K] is not 0.

    If before and after were exchangeable, each prompt's difference could as well have the other sign: exact however
    few prompts there are (with three of them no p-value is below 1/4). All zero gives 1.
    """
    sums, _ = cluster_sums(differences, cluster)
    observed = np.abs(sums.sum(0))
    slack = 1e-12 * np.abs(sums).sum(0)  # the same sum in another order must count as equal
    generator = np.random.default_rng(seed)
    extreme = np.zeros(sums.shape[1])
    for start in range(0, resamples, BLOCK):
        signs = generator.integers(0, 2, (min(BLOCK, resamples - start), len(sums))) * 2.0 - 1
        extreme += (np.abs(signs @ sums) >= observed - slack).sum(0)
    return (1 + extreme) / (1 + resamples)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm-Bonferroni adjusted p-values: below alpha where the family-wise error rate alpha rejects."""
    adjusted, largest = {}, 0.0
    ordered = sorted(p_values.items(), key=lambda item: (item[1], item[0]))
    for rank, (name, p) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p))
        adjusted[name] = largest
    return adjusted


def cluster_sums(values: Array, cluster: NDArray[np.int64]) -> tuple[Array, Array]:
    """Sums [P, K] of the rows of each cluster, and the number of its rows [P]."""
    counts = np.bincount(cluster).astype(np.float64)
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, cluster, values)
    return sums, counts
