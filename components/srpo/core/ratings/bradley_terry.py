"""Strengths of three or more models from pairs (Bradley and Terry 1952); a tie is half a win for each."""

import numpy as np
from scipy.optimize import minimize

from srpo.core.ratings.intervals import Array, Labels, Mean, two_way

PRIOR = 0.1  # weight of the prior: a model that won every time has a finite strength all the same


def strengths(first: Labels, second: Labels, won: Array, models: int, prior: float = PRIOR) -> Array:
    """Log-strengths [models], zero on average: ``first`` beats ``second`` with probability 1 / (1 + exp(b - a)).

    Args:
        first: index of a model, [N].
        second: index of the other one, [N].
        won: 1 where ``first`` won, 0 where ``second`` did, 0.5 for a tie, [N].
        models: how many there are.
        prior: precision of a normal prior on each strength; 0 gives plain maximum likelihood.
    """

    def loss(strength: Array) -> tuple[float, Array]:
        gap = strength[first] - strength[second]
        chance = 1 / (1 + np.exp(-gap))
        slope = np.zeros(models)
        np.add.at(slope, first, chance - won)
        np.add.at(slope, second, won - chance)
        value = np.logaddexp(0, -gap) @ won + np.logaddexp(0, gap) @ (1 - won)
        return float(value + prior / 2 * strength @ strength), slope + prior * strength

    found = minimize(loss, np.zeros(models), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    return np.asarray(found - found.mean())


def strengths_with_errors(
    first: Labels, second: Labels, won: Array, models: int, prompt: Labels, rater: Labels
) -> Mean:
    """Log-strengths with errors over prompts and raters: each comparison's pull on the estimate, taken as a mean."""
    estimate = strengths(first, second, won, models)
    gap = estimate[first] - estimate[second]
    chance = 1 / (1 + np.exp(-gap))
    side = np.zeros((len(won), models))
    rows = np.arange(len(won))
    side[rows, first] += 1
    side[rows, second] -= 1
    curvature = (side * (chance * (1 - chance))[:, None]).T @ side + PRIOR * np.eye(models)
    pull = len(won) * (side * (won - chance)[:, None]) @ np.linalg.inv(curvature)
    spread = two_way(pull - pull.mean(1, keepdims=True), prompt, rater)
    return Mean(estimate, spread.error, spread.freedom)
