"""Strengths of three or more models from pairs (Bradley and Terry 1952); a tie is half a win for each."""

import numpy as np

from srpo.core.ratings.intervals import Array, Labels, Mean, two_way, weights_of

PRIOR = 0.1  # weight of the prior: a model that won every time has a finite strength all the same


def strengths(
    first: Labels, second: Labels, won: Array, models: int, prior: float = PRIOR, weight: Array | None = None
) -> Array:
    """Log-strengths [models], zero on average: ``first`` beats ``second`` with probability 1 / (1 + exp(b - a)).

    Args:
        first: index of a model, [N].
        second: index of the other one, [N].
        won: 1 where ``first`` won, 0 where ``second`` did, 0.5 for a tie, [N].
        models: how many there are.
        prior: precision of a normal prior on each strength; 0 gives plain maximum likelihood.
        weight: how much each comparison counts, [N]; 1 without.
    """
    weight = np.ones(len(won)) if weight is None else weight
    strength = np.zeros(models)
    for _ in range(100):  # Newton's steps; the likelihood is concave, a handful are enough
        slope, curvature = _slope_and_curvature(strength, first, second, won, prior, weight)
        step = np.linalg.pinv(curvature) @ slope
        strength = strength + step * min(1.0, 2.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-10:
            break
    return np.asarray(strength - strength.mean())


def strengths_with_errors(
    first: Labels, second: Labels, won: Array, models: int, prompt: Labels, rater: Labels
) -> Mean:
    """Log-strengths with errors over prompts and raters: each comparison's pull on the estimate, taken as a mean.

    Every rater counts once, however many comparisons they made.
    """
    weight = len(won) * weights_of(prompt, rater)[0]
    estimate = strengths(first, second, won, models, weight=weight)
    rows, side = np.arange(len(won)), np.zeros((len(won), models))
    side[rows, first] += 1
    side[rows, second] -= 1
    surprise = won - _chance(estimate, first, second)
    _, curvature = _slope_and_curvature(estimate, first, second, won, PRIOR, weight)
    pull = len(won) * (side * surprise[:, None]) @ np.linalg.inv(curvature)
    spread = two_way(pull - pull.mean(1, keepdims=True), prompt, rater)
    return Mean(estimate, spread.error, spread.freedom)


def _chance(strength: Array, first: Labels, second: Labels) -> Array:
    """How likely the first wins, [N]."""
    return np.asarray(1 / (1 + np.exp(strength[second] - strength[first])))


def _slope_and_curvature(
    strength: Array, first: Labels, second: Labels, won: Array, prior: float, weight: Array
) -> tuple[Array, Array]:
    """Gradient [models] of the log-likelihood, and minus its Hessian [models, models]."""
    chance = _chance(strength, first, second)
    slope, curvature = -prior * strength, prior * np.eye(len(strength))
    np.add.at(slope, first, weight * (won - chance))
    np.add.at(slope, second, weight * (chance - won))
    weight = weight * chance * (1 - chance)
    for one, other, sign in ((first, first, 1), (second, second, 1), (first, second, -1), (second, first, -1)):
        np.add.at(curvature, (one, other), sign * weight)
    return slope, curvature
