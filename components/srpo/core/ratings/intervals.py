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


class Weights(NamedTuple):
    """How much each rating counts, and what of it is independent."""

    rating: Array  # [N]: one over the number of raters and of this rater's ratings; they sum to 1
    raters: int
    prompts: float  # as many prompts of equal weight would count alike
    ratings: float  # and as many ratings


def weights_of(prompt: Labels, rater: Labels) -> Weights:
    """Weights by which every rater counts once (labels are 0, 1, ...)."""
    counts = np.bincount(rater)
    rating = 1 / (len(counts) * counts[rater])
    prompts, ratings = (1 / np.square(weight).sum() for weight in (np.bincount(prompt, rating), rating))
    return Weights(rating, len(counts), float(prompts), float(ratings))


def two_way(values: Array, prompt: Labels, rater: Labels) -> Mean:
    """Mean over raters of each one's mean of ``values`` [N, K]; row n is about ``prompt[n]`` and by ``rater[n]``.

    With a single prompt or a single rater nothing is known of the others: the error is infinite.
    """
    weights = weights_of(prompt, rater)
    raters = weights.raters
    own = raters * sums(values * weights.rating[:, None], rater, raters)  # [R, K]: the raters' means
    mean = np.clip(own.mean(0), values.min(0), values.max(0)) + 0.0  # a sum of tenths is not quite 1
    if raters < 2 or prompt.max(initial=0) < 1:
        return Mean(mean, np.full_like(mean, np.inf), np.ones_like(mean))
    away = (values - own[rater]) * weights.rating[:, None]
    cells, place = np.unique(np.stack([prompt, rater]), axis=1, return_inverse=True)
    cell = sums(away, place.reshape(-1), cells.shape[1])  # of one rater about one prompt
    of_prompt = np.square(sums(away, prompt, int(prompt.max()) + 1)).sum(0)
    few = weights.prompts / (weights.prompts - 1)
    between_raters = own.var(0, ddof=1) / raters
    between_prompts = few * of_prompt
    # Ratings of different raters about the same prompt are alike as far as the prompt is.
    shared = np.maximum(few * (of_prompt - np.square(cell).sum(0)), 0) * raters / (raters - 1)
    variance = np.maximum(between_raters + shared, between_prompts)
    spread = np.square(between_raters) / (raters - 1) + np.square(between_prompts) / (weights.prompts - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = np.nan_to_num(np.square(variance) / spread, nan=1.0)  # Satterthwaite
    return Mean(mean, np.sqrt(variance), np.maximum(freedom, max(1.0, min(raters, weights.prompts) - 1)))


def share(values: Array, prompt: Labels, rater: Labels, confidence: float) -> tuple[Array, Array, Array]:
    """Mean and ends of the interval of shares: ``values`` [N, K] are 0 or 1, and so are the ends at most.

    Wilson's interval on :func:`effective_count` ratings. With a single prompt or rater it is [0, 1].
    """
    found, weights = two_way(values, prompt, rater), weights_of(prompt, rater)
    p = found.mean
    unknown = np.isinf(found.error)
    count = effective_count(p, np.where(unknown, 0.0, found.error), weights)
    z2 = np.square(stdtrit(found.freedom, (1 + confidence) / 2))
    middle = (p + z2 / (2 * count)) / (1 + z2 / count)
    reach = np.sqrt(z2 * (p * (1 - p) / count + z2 / (4 * np.square(count)))) / (1 + z2 / count)
    low, high = np.where(unknown, 0.0, middle - reach), np.where(unknown, 1.0, middle + reach)
    return p, np.clip(low, 0, p), np.clip(high, p, 1)


def effective_count(p: Array, error: Array, weights: Weights) -> Array:
    """How many independent ratings have the standard ``error`` [K] of a share ``p`` [K].

    Their number follows from the ratio of variances (the design effect). Its estimate is poor where few ratings are of
    the rarer kind, or few raters are there: raters who all agree seem to have no variance. So it is averaged with a
    belief: a rater is worth at most 8 independent ratings, and a prompt at most 4. The belief weighs as much as 40
    ratings of the rarer kind. The estimate weighs as many as there are, at most 4 (R - 1)^2.
    """
    believed = min(WORTH_OF_A_RATER * weights.raters, WORTH_OF_A_PROMPT * weights.prompts, weights.ratings)
    known = np.minimum(np.minimum(p, 1 - p) * weights.ratings, 4 * (weights.raters - 1) ** 2)
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = np.nan_to_num(np.square(error) * weights.ratings / (p * (1 - p)), posinf=0.0)
    belief = np.maximum(weights.ratings / believed, effect)
    return weights.ratings * (known + WEIGHT_OF_BELIEF) / (known * effect + WEIGHT_OF_BELIEF * belief)


def difference(values: Array, prompt: Labels, rater: Labels, confidence: float) -> tuple[Array, Array, Array]:
    """Mean and ends of the interval of ``values`` [N, K] of -1, 0 and 1: the share of gains less that of losses.

    Both shares' distances to their ends are added like the errors of two correlated estimates (Zou and Donner 2008).
    With a single prompt or rater it is [-1, 1].
    """
    gains, losses = ((sign * values > 0).astype(np.float64) for sign in (1, -1))
    (gain, gain_low, gain_high), (loss, loss_low, loss_high) = (
        share(part, prompt, rater, confidence) for part in (gains, losses)
    )
    errors = [two_way(part, prompt, rater).error for part in (values, gains, losses)]
    with np.errstate(invalid="ignore", divide="ignore"):
        both = (np.square(errors[1]) + np.square(errors[2]) - np.square(errors[0])) / (2 * errors[1] * errors[2])
    alike = np.clip(np.nan_to_num(both), -1, 1)
    mean = gain - loss

    def reach(one: Array, other: Array) -> Array:
        return np.sqrt(np.maximum(np.square(one) + np.square(other) - 2 * alike * one * other, 0))

    low, high = mean - reach(gain - gain_low, loss_high - loss), mean + reach(gain_high - gain, loss - loss_low)
    unknown = np.isinf(errors[0])
    return mean, np.where(unknown, -1.0, np.clip(low, -1, mean)), np.where(unknown, 1.0, np.clip(high, mean, 1))


def sums(values: Array, group: Labels, groups: int) -> Array:
    """Sums [groups, K] of the rows of ``values`` [N, K] that have the same label."""
    total = np.zeros((groups, values.shape[1]))
    np.add.at(total, group, values)
    return total
