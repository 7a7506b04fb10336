"""All statistics of a table of ratings, as one mapping that JSON can hold."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from srpo.core.ratings import intervals
from srpo.core.ratings.agreement import check_rater, krippendorff_alpha
from srpo.core.ratings.bradley_terry import strengths_with_errors
from srpo.core.ratings.intervals import Array, Labels
from srpo.core.ratings.protocol import CHOICES, GRADES, OVERALL, dimensions_of, overall
from srpo.core.ratings.table import About

SCHEMA = "srpo.ratings_summary/1"
BEFORE, AFTER = "base", "tuned"
WORTH = {"a": 1.0, "tie": 0.0, "b": -1.0}
Rows = Sequence[Mapping[str, Any]]


def summarise(rows: Rows, study: About, confidence: float = 0.95) -> dict[str, Any]:
    """What people said, over the raters that the study's rules leave in.

    ``shares[dimension][model]`` is the share of Excellent, ``delta[dimension]`` that of tuned less that of base,
    ``net_win[dimension]`` how much more often tuned won than base did, each with ``mean``, ``low`` and ``high``;
    ``strengths[dimension][model]`` are Bradley-Terry log-strengths, from three models on. Grades are compared for the
    same rater, prompt and noise. An end that nothing is known of is that of the whole range (None for a strength).
    """
    raters = {
        name: check_rater([row for row in rows if row["rater"] == name], study.rules)
        for name in sorted({row["rater"] for row in rows})
    }
    used = [name for name, rater in raters.items() if not rater.excluded]
    counted = [row for row in rows if row["kind"] == "item" and row["rater"] in used]
    if study.mode == "grade":
        counted += overall_rows(counted)
    names = list(dict.fromkeys([*dimensions_of(study.mode), OVERALL]))
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "study": study.study,
        "mode": study.mode,
        "checkpoint": study.checkpoint,
        "models": list(study.models),
        "confidence": confidence,
        "raters": {name: rater._asdict() for name, rater in raters.items()},
        "used": used,
        "prompts": len({row["prompt_id"] for row in counted}),
        "alpha": {},
        "shares": {},
        "delta": {},
        "net_win": {},
        "strengths": {},
    }
    for name in names:
        mine = [row for row in counted if row["dimension"] == name]
        if mine:
            _add(result, name, mine, study, confidence)
    return result


def overall_rows(rows: Rows) -> list[dict[str, Any]]:
    """A row with the paper's overall grade for each image that a rater graded."""
    images: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        images.setdefault((row["rater"], row["item"]), []).append(row)
    return [
        {**grades[0], "dimension": OVERALL, "answer": overall([row["answer"] for row in grades])}
        for grades in images.values()
    ]


def _add(result: dict[str, Any], name: str, rows: Rows, study: About, confidence: float) -> None:
    """The numbers of one dimension, into ``result``."""
    result["alpha"][name] = alpha(rows)
    if study.mode == "grade":
        result["shares"][name] = {}
        for model in study.models:
            mine = [row for row in rows if row["model_a"] == model]
            values = np.array([[float(row["answer"] == "excellent")] for row in mine])
            found = intervals.share(values, *_labels(mine), confidence)
            result["shares"][name][model] = _entry(*(float(part[0]) for part in found))
        pairs = matched(rows, BEFORE, AFTER)
        if pairs:
            gain = [
                float(after["answer"] == "excellent") - (before["answer"] == "excellent") for before, after in pairs
            ]
            result["delta"][name] = _mean(np.array(gain), [before for before, _ in pairs], confidence)
    compared = comparisons(rows, study)
    own = [
        (row, won if row["model_a"] == AFTER else -won)
        for row, won in compared
        if {row["model_a"], row["model_b"]} == {BEFORE, AFTER}
    ]
    if own:
        result["net_win"][name] = _mean(np.array([won for _, won in own]), [row for row, _ in own], confidence)
    if len(study.models) >= 3 and compared:
        result["strengths"][name] = _strengths(compared, study.models, confidence)


def _strengths(
    compared: list[tuple[Mapping[str, Any], float]], models: Sequence[str], confidence: float
) -> dict[str, dict[str, float | None]]:
    """Bradley-Terry log-strength of each model."""
    place = {model: index for index, model in enumerate(models)}
    rows = [row for row, _ in compared]
    first, second = (np.array([place[row[side]] for row in rows]) for side in ("model_a", "model_b"))
    won = np.array([(won + 1) / 2 for _, won in compared])
    found = strengths_with_errors(first, second, won, len(models), *_labels(rows))
    low, high = found.interval(confidence)
    return {model: _entry(float(found.mean[k]), float(low[k]), float(high[k])) for model, k in place.items()}


def comparisons(rows: Rows, study: About) -> list[tuple[Mapping[str, Any], float]]:
    """Rows with ``model_a`` and ``model_b``, and 1 where a won, 0 for a tie, -1 where b won.

    Of grades, every two models' images of the same prompt and noise by the same rater: the better grade wins.
    """
    if study.mode == "pair":
        return [(row, WORTH[row["answer"]]) for row in rows]
    found: list[tuple[Mapping[str, Any], float]] = []
    for first, second in itertools.combinations(study.models, 2):
        for one, other in matched(rows, first, second):
            gap = GRADES.index(other["answer"]) - GRADES.index(one["answer"])
            found.append(({**one, "model_b": second}, float(np.sign(gap))))
    return found


def matched(rows: Rows, first: str, second: str) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Grades of both models by the same rater for the same prompt and noise."""
    sides: dict[tuple[str, str, int], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        sides.setdefault((row["rater"], row["prompt_id"], row["noise_index"]), {})[row["model_a"]] = row
    return [(side[first], side[second]) for side in sides.values() if {first, second} <= set(side)]


def alpha(rows: Rows) -> float | None:
    """Krippendorff's alpha of the answers to one dimension, over raters."""
    units = {item: place for place, item in enumerate(sorted({row["item"] for row in rows}))}
    raters = {rater: place for place, rater in enumerate(sorted({row["rater"] for row in rows}))}
    ranks = np.full((len(units), len(raters)), np.nan)
    for row in rows:
        scale = CHOICES if row["answer"] in CHOICES else GRADES
        ranks[units[row["item"]], raters[row["rater"]]] = scale.index(row["answer"])
    return krippendorff_alpha(ranks)


def gate_summary(result: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """The summary as gates read it: ``[before, after or delta][ratings.<dimension>.<excellent or net_win>]``."""
    known: dict[str, dict[str, dict[str, float]]] = {"before": {}, "after": {}, "delta": {}}
    for name, models in result["shares"].items():
        for moment, model in (("before", BEFORE), ("after", AFTER)):
            if model in models:
                known[moment][f"ratings.{name}.excellent"] = models[model]
    for measure, entries in (("excellent", result["delta"]), ("net_win", result["net_win"])):
        for name, entry in entries.items():
            known["delta"][f"ratings.{name}.{measure}"] = entry
    return known


def _mean(values: Array, rows: Rows, confidence: float) -> dict[str, float | None]:
    """Mean and interval of ``values`` [N] of -1, 0 and 1."""
    found = intervals.difference(values[:, None], *_labels(rows), confidence)
    return _entry(*(float(part[0]) for part in found))


def _labels(rows: Rows) -> tuple[Labels, Labels]:
    prompts, raters = (np.array([row[name] for row in rows]) for name in ("prompt_id", "rater"))
    return np.unique(prompts, return_inverse=True)[1], np.unique(raters, return_inverse=True)[1]


def _entry(mean: float, low: float, high: float) -> dict[str, float | None]:
    return {"mean": mean, **{name: end if math.isfinite(end) else None for name, end in (("low", low), ("high", high))}}
