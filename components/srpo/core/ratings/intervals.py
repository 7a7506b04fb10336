"""Means over ratings with intervals that hold for other prompts *and* other raters, however the ratings are spread.

Raters stop early, or one does most of the work. So the mean is that of the raters' own means: each rater counts once.
Student's interval of independent means then holds whatever their variances are (Ibragimov and Müller 2010). Its
variance grows by what the raters' means share: the same prompts.

A share (of Excellent, of wins) has Wilson's interval, on as many independent ratings as have that variance. A
difference of two shares is put together from both (Zou and Donner 2008). An interval keeps its width where all agree.

``N`` is the number of ratings, ``K`` of columns, ``R`` of raters. ``docs/ratings.md`` says what these intervals cover.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
# What is believed of an effective number of ratings before it is estimated: see `effective_count`.
WORTH_OF_A_RATER, WORTH_OF_A_PROMPT, WEIGHT_OF_BELIEF = 8.0, 4.0, 40.0


class Mean(NamedTuple):
    """Estimates, their standard errors and degrees of freedom, each [K]; infinite and 1 where nothing can be said."""

    mean: Array
    error: Array
    freedom: Array

    def interval(self, confidence: float) -> tuple[Array, Array]:
        """Both ends, each [K]."""
        reach = np.where(np.isinf(self.error), np.inf, stdtrit(self.freedom, (1 + confidence) / 2) * self.error)
        return self.mean - reach, self.mean + reach


class Counts(NamedTuple):
    """What the ratings of a study are worth at most: of raters, of prompts, and of ratings as many as weigh alike."""

    raters: int
    prompts: float
    ratings: float


def weights_of(prompt: Labels, rater: Labels) -> tuple[Array, Counts]:
    """The weight of each rating [N] by which every rater counts once; they sum to 1. Labels are 0, 1, ..."""
    counts = np.bincount(rater)
    weight = 1 / (len(counts) * counts[rater])
    prompts, ratings = (1 / np.square(part).sum() for part in (np.bincount(prompt, weight), weight))
    return weight, Counts(len(counts), float(prompts), float(ratings))


def two_way(values: Array, prompt: Labels, rater: Labels) -> Mean:
    """Mean over raters of each one's mean of ``values`` [N, K]; row n is about ``prompt[n]`` and by ``rater[n]``.

    With a single prompt or a single rater nothing is known of the others: the error is infinite.
    """
    weight, (raters, prompts, _) = weights_of(prompt, rater)
    own = raters * sums(values * weight[:, None], rater, raters)  # [R, K]: the raters' means
    mean = np.clip(own.mean(0), values.min(0), values.max(0)) + 0.0  # a sum of tenths is not quite 1
    if raters < 2 or prompt.max(initial=0) < 1:
        return Mean(mean, np.full_like(mean, np.inf), np.ones_like(mean))
    away = (values - own[rater]) * weight[:, None]
    cells, place = np.unique(np.stack([prompt, rater]), axis=1, return_inverse=True)
    cell = sums(away, place.reshape(-1), cells.shape[1])  # of one rater about one prompt
    of_prompt = np.square(sums(away, prompt, int(prompt.max()) + 1)).sum(0)
    few = prompts / (prompts - 1)
    between_raters = own.var(0, ddof=1) / raters
    between_prompts = few * of_prompt
    # Ratings of different raters about the same prompt are alike as far as the prompt is.
    shared = np.maximum(few * (of_prompt - np.square(cell).sum(0)), 0) * raters / (raters - 1)
    variance = np.maximum(between_raters + shared, between_prompts)
    spread = np.square(between_raters) / (raters - 1) + np.square(between_prompts) / (prompts - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.nan_to_num(np.square(variance) / spread, nan=1.0)  # Satterthwaite
    return Mean(mean, np.sqrt(variance), np.maximum(freedom, max(1.0, min(raters, prompts) - 1)))


def share(values: Array, prompt: Labels, rater: Labels, confidence: float) -> tuple[Array, Array, Array]:
    """Mean and ends of the interval of shares: ``values`` [N, K] are 0 or 1. With one prompt or rater it is [0, 1]."""
    found = two_way(values, prompt, rater)
    return found.mean, *ends_of_share(found, weights_of(prompt, rater)[1], confidence)


def difference(values: Array, prompt: Labels, rater: Labels, confidence: float) -> tuple[Array, Array, Array]:
    """Mean and ends of the interval of ``values`` [N, K] of -1, 0 and 1: the share of gains less that of losses.

    With a single prompt or rater it is [-1, 1].
    """
    found, gains, losses = (two_way(part, prompt, rater) for part in (values, gained(values), gained(-values)))
    return found.mean, *ends_of_difference(found, gains, losses, weights_of(prompt, rater)[1], confidence)


def gained(values: Array) -> Array:
    """1 where ``values`` are positive, else 0."""
    return (values > 0).astype(np.float64)


def ends_of_share(found: Mean, counts: Counts, confidence: float) -> tuple[Array, Array]:
    """Both ends [K] of Wilson's interval of a share on :func:`effective_count` ratings; within 0 and 1."""
    p, unknown = found.mean, np.isinf(found.error)
    count = effective_count(p, np.where(unknown, 0.0, found.error), counts)
    z2 = np.square(stdtrit(found.freedom, (1 + confidence) / 2))
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    reach = np.sqrt(z2 * (p * (1 - p) / count + z2 / (4 * np.square(count)))) / (1 + z2 / count)
    low, high = np.where(unknown, 0.0, middle - reach), np.where(unknown, 1.0, middle + reach)
    return np.clip(low, 0, p), np.clip(high, p, 1)


def effective_count(p: Array, error: Array, counts: Counts) -> Array:
    """How many independent ratings have the standard ``error`` [K] of a share ``p`` [K].

    Their number follows from the ratio of variances (the design effect). Its estimate is poor where few ratings are of
    the rarer kind, or few raters are there: raters who all agree seem to have no variance. So it is averaged with a
    belief: a rater is worth at most 8 independent ratings, and a prompt at most 4. The belief weighs as much as 40
    ratings of the rarer kind. The estimate weighs as many as there are, at most 4 (R - 1)^2.
    """
    raters, prompts, ratings = counts
    believed = min(WORTH_OF_A_RATER * raters, WORTH_OF_A_PROMPT * prompts, ratings)
    known = np.minimum(np.minimum(p, 1 - p) * ratings, 4 * (raters - 1) ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = np.nan_to_num(np.square(error) * ratings / (p * (1 - p)), posinf=0.0)
    belief = np.maximum(ratings / believed, effect)
    return ratings * (known + WEIGHT_OF_BELIEF) / (known * effect + WEIGHT_OF_BELIEF * belief)


def ends_of_difference(
    found: Mean, gains: Mean, losses: Mean, counts: Counts, confidence: float
) -> tuple[Array, Array]:
    """Both ends [K] of the interval of ``found``, the share of gains less that of losses; within -1 and 1.

    Both shares' distances to their ends are added like the errors of two correlated estimates (Zou and Donner 2008).
    """
    (gain_low, gain_high), (loss_low, loss_high) = (ends_of_share(part, counts, confidence) for part in (gains, losses))
    with np.errstate(invalid="ignore", divide="ignore"):
        both = np.square(gains.error) + np.square(losses.error) - np.square(found.error)
        alike = np.clip(np.nan_to_num(both / (2 * gains.error * losses.error)), -1, 1)

    def reach(one: Array, other: Array) -> Array:
        return np.sqrt(np.maximum(np.square(one) + np.square(other) - 2 * alike * one * other, 0))

    low = found.mean - reach(gains.mean - gain_low, loss_high - losses.mean)
    high = found.mean + reach(gain_high - gains.mean, losses.mean - loss_low)
    unknown = np.isinf(found.error)
    low, high = np.where(unknown, -1.0, low), np.where(unknown, 1.0, high)
    return np.clip(low, -1, found.mean), np.clip(high, found.mean, 1)


def sums(values: Array, group: Labels, groups: int) -> Array:
    """Sums [groups, K] of the rows of ``values`` [N, K] that have the same label."""
    total = np.zeros((groups, values.shape[1]))
    np.add.at(total, group, values)
    return total
