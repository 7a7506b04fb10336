"""How far raters agree: with each other (Krippendorff's alpha), with themselves, and with known answers."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from srpo.core.ratings.study import Rules

LEAST = 3  # checks of a kind that a rule needs before it may leave somebody out


def krippendorff_alpha(ratings: NDArray[np.float64]) -> float | None:
    """Krippendorff's alpha for ordered grades: 1 is full agreement, 0 what chance gives.

    Args:
        ratings: [units, raters], a grade's rank (any numbers in the order of the grades), NaN where not rated.

    Returns:
        alpha, or None where it is not defined: no unit with two ratings, or all grades the same.
    """
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = np.array([(ratings == value).sum(1) for value in values], dtype=np.float64).T  # [units, values]
    if not len(values) or not (counts.sum(1) >= 2).any():
        return None
    counts = counts[counts.sum(1) >= 2]
    # Coincidences [values, values]: pairs of ratings of one unit, so weighted that each rating counts once.
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(values))
    coincidence = (pairs / (counts.sum(1) - 1)[:, None, None]).sum(0)
    margin = coincidence.sum(1)
    # Two grades are as far apart as there are ratings from the one to the other, those of both ends counted half.
    place = np.cumsum(margin) - margin / 2
    distance = np.square(place[:, None] - place[None, :])
    expected = (np.outer(margin, margin) * distance).sum()
    if expected == 0:
        return None
    return float(1 - (margin.sum() - 1) * (coincidence * distance).sum() / expected)


class Rater(NamedTuple):
    """How one rater did on what can be checked; ``excluded`` is the reason for leaving them out, or ""."""

    answers: int
    gold: tuple[int, int]  # right, of
    repeats: tuple[int, int]  # the same answer again, of
    seconds: float  # median time of an item
    excluded: str


def check_rater(rows: Sequence[Mapping[str, Any]], rules: Rules) -> Rater:
    """How the rater of ``rows`` did, under the rules of the study."""
    gold = [row["correct"] for row in rows if row["correct"] is not None]
    first: dict[tuple[str, str], str] = {}
    again = []
    for row in sorted(rows, key=lambda row: row["position"]):
        place = row["item"], row["dimension"]
        if place in first:
            again.append(row["answer"] == first[place])
        first.setdefault(place, row["answer"])
    seconds = float(statistics.median({row["position"]: row["seconds"] for row in rows}.values()))
    reasons = []
    for what, found, least in (
        ("gold accuracy", gold, rules.gold_accuracy),
        ("self-agreement", again, rules.self_agreement),
    ):
        if len(found) >= LEAST and sum(found) / len(found) < least:
            reasons.append(f"{what} {sum(found)} of {len(found)} is below {least:g}")
    if seconds < rules.seconds:
        reasons.append(f"median time of an item {seconds:.1f} s is below {rules.seconds:g} s")
    return Rater(len(rows), (sum(gold), len(gold)), (sum(again), len(again)), seconds, "; ".join(reasons))
