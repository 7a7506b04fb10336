"""The comparison of two models: every measure with its interval, the tests, each category, what could have been shown.

Three families of tests, each corrected by itself. *Effect*: the rewards trained on and the judged realism, which decide
whether anything happened; *watched*: what must not get worse; both after Holm. *Searched*: all other measures and every
category, where one only looks around; after Benjamini and Hochberg.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srpo.core.ratings.intervals import Counts, Mean, ends_of_difference, ends_of_share, gained
from srpo.evaluate import statistics
from srpo.evaluate.config import Config
from srpo.evaluate.frechet import Reference
from srpo.evaluate.pairs import Pairs
from srpo.evaluate.statistics import Array
from srpo.evaluate.verdict import effects, watched

FRECHET = "frechet"
MOMENTS = ("before", "after", "delta")
Entries = dict[str, dict[str, float]]  # [name][mean, low, high]


def summarise(pairs: Pairs, reference: Reference | None, config: Config) -> tuple[dict[str, Entries], dict[str, float]]:
    """``[before, after or delta][name][mean, low or high]``, and the smallest effect of each name.

    ``frechet`` is there where a judge exists.
    """
    moments = intervals(pairs.before, pairs.after, pairs.cluster, config.confidence)
    summary = {moment: _by_name(pairs.names, found) for moment, found in moments.items()}
    errors = dict(zip(pairs.names, moments["delta"].error, strict=True))
    if reference is not None and pairs.features is not None:
        distances = _distances(pairs, reference)
        draws = statistics.draw_weights(pairs.prompts, config.frechet_resamples, config.seed)
        found = statistics.bootstrap_statistic(distances, pairs.cluster, draws, config.confidence)
        for moment, entry in _by_name(MOMENTS, found).items():
            low = entry["low"] if moment == "delta" else max(0.0, entry["low"])  # a distance is at least 0
            summary[moment][FRECHET] = entry | {"low": low}
        errors[FRECHET] = found.error[2]
    return summary, smallest_effects(errors, pairs.prompts, config)


def intervals(
    before: Array, after: Array, cluster: NDArray[np.int64], confidence: float
) -> dict[str, statistics.Interval]:
    """Means of ``before`` and ``after`` [N, K] and of their difference, with intervals over prompts (``cluster`` [N]).

    A measure that is 0 or 1 (is the content there?) is a share and has a share's interval: where no image of few was
    wrong, the next may be. Models that drew the same images have a difference of exactly 0.
    """
    values = {"before": before, "after": after, "delta": after - before}
    found = {moment: statistics.mean_interval(value, cluster, confidence) for moment, value in values.items()}
    shares = np.isin(before, (0, 1)).all(0) & np.isin(after, (0, 1)).all(0)
    if not shares.any():
        return found
    counts = Counts(int(cluster.max()) + 1, len(cluster), len(cluster))

    def mean(part: Array) -> Mean:
        one = statistics.mean_interval(part[:, shares], cluster, confidence)
        return Mean(one.mean, one.error, np.full_like(one.mean, counts.raters - 1))

    for moment in ("before", "after"):
        ends = ends_of_share(mean(values[moment]), counts, confidence)
        found[moment].low[shares], found[moment].high[shares] = ends
    if (delta := values["delta"]).any():
        ends = ends_of_difference(mean(delta), mean(gained(delta)), mean(gained(-delta)), counts, confidence)
        found["delta"].low[shares], found["delta"].high[shares] = ends
    return found


def smallest_effects(errors: dict[str, float], prompts: int, config: Config) -> dict[str, float]:
    """What the sample could have shown of each measure, at the level its family leaves to one test (the hardest)."""
    alpha, deciding = 1 - config.confidence, effects(errors)
    return {
        name: float(
            statistics.smallest_effect(
                np.array([error]), prompts, alpha / (len(deciding) if name in deciding else 1), config.power
            )[0]
        )
        for name, error in errors.items()
    }


def p_values(pairs: Pairs, reference: Reference | None, config: Config) -> dict[str, float]:
    """An uncorrected p-value of each measure's difference, by flipping prompts between before and after."""
    found = statistics.sign_flip_p(pairs.after - pairs.before, pairs.cluster, config.resamples, config.seed)
    values = dict(zip(pairs.names, map(float, found), strict=True))
    if reference is not None and pairs.features is not None:
        before, after = pairs.features
        ones = np.ones(len(before))

        def difference(swapped: NDArray[np.bool_]) -> float:
            left = np.where(swapped[:, None], after, before)
            right = np.where(swapped[:, None], before, after)
            return reference.distance_of(right, ones) - reference.distance_of(left, ones)

        values[FRECHET] = statistics.swap_p(difference, pairs.cluster, config.frechet_resamples, config.seed)
    return values


def effect_tests(values: dict[str, float], delta: Entries, config: Config) -> dict[str, dict[str, float | bool]]:
    """Whether what was aimed at moved: ``p``, ``p_holm``, and ``clear`` of zero.

    ``clear`` needs both the corrected test and an interval without zero.
    """
    family = {name: values[name] for name in effects(values)}
    adjusted = statistics.holm(family)
    return {
        name: {
            "p": family[name],
            "p_holm": adjusted[name],
            "clear": adjusted[name] < 1 - config.confidence and not delta[name]["low"] <= 0 <= delta[name]["high"],
        }
        for name in family
    }


def watched_tests(values: dict[str, float]) -> dict[str, float]:
    """Holm-adjusted p-values of what must not get worse."""
    return statistics.holm({name: values[name] for name in watched(values)})


def by_category(pairs: Pairs, config: Config) -> dict[str, dict[str, Any]]:
    """``{category: {"prompts", "pairs", "delta", "p"}}`` of each category, by name.

    A category of a single prompt has no spread over prompts, and so no entry; where all prompts are of one category
    there is none at all.
    """
    categories = sorted({item.category for item in pairs.pairs})
    found = {}
    for category in categories if len(categories) > 1 else ():
        rows = np.array([item.category == category for item in pairs.pairs])
        prompts, cluster = np.unique(pairs.cluster[rows], return_inverse=True)
        if len(prompts) < 2:
            continue
        before, after = pairs.before[rows], pairs.after[rows]
        delta = after - before
        interval = intervals(before, after, cluster, config.confidence)["delta"]
        p = statistics.sign_flip_p(delta, cluster, config.resamples, config.seed)
        found[category] = {
            "prompts": len(prompts),
            "pairs": int(rows.sum()),
            "delta": _by_name(pairs.names, interval),
            "p": dict(zip(pairs.names, map(float, p), strict=True)),
        }
    return found


def searched_tests(
    values: dict[str, float], categories: dict[str, dict[str, Any]], config: Config
) -> tuple[dict[str, dict[str, float | bool]], dict[str, dict[str, Any]]]:
    """What one only looks around in, corrected together: the other measures, and every measure of every category.

    Returns ``{name: {"p", "q", "clear"}}`` and the categories with ``q`` and ``clear`` beside ``p``.
    """
    aimed = effects(values)
    family = {name: p for name, p in values.items() if name not in aimed}
    family |= {f"{category}\0{name}": p for category, entry in categories.items() for name, p in entry["p"].items()}
    adjusted = statistics.benjamini_hochberg(family)
    alpha = 1 - config.confidence
    measures = {
        name: {"p": p, "q": adjusted[name], "clear": adjusted[name] < alpha}
        for name, p in values.items()
        if name not in aimed
    }
    for category, entry in categories.items():
        q = {name: adjusted[f"{category}\0{name}"] for name in entry["p"]}
        entry |= {"q": q, "clear": {name: value < alpha for name, value in q.items()}}
    return measures, categories


def compare(pairs: Pairs, config: Config) -> dict[str, Any]:
    """A short comparison, for an earlier release against the tuned model: ``delta``, ``q`` and ``clear`` by name."""
    found = intervals(pairs.before, pairs.after, pairs.cluster, config.confidence)["delta"]
    p = statistics.sign_flip_p(pairs.after - pairs.before, pairs.cluster, config.resamples, config.seed)
    q = statistics.benjamini_hochberg(dict(zip(pairs.names, map(float, p), strict=True)))
    return {
        "before": dict(zip(pairs.names, map(float, pairs.before.mean(0)), strict=True)),
        "after": dict(zip(pairs.names, map(float, pairs.after.mean(0)), strict=True)),
        "delta": _by_name(pairs.names, found),
        "q": q,
        "clear": {name: value < 1 - config.confidence for name, value in q.items()},
    }


def _distances(pairs: Pairs, reference: Reference) -> Callable[[Array], Array]:
    assert pairs.features is not None
    before, after = pairs.features

    def distances(counts: Array) -> Array:
        left, right = reference.distance_of(before, counts), reference.distance_of(after, counts)
        return np.array([left, right, right - left])

    return distances


def _by_name(names: Iterable[str], found: statistics.Interval) -> Entries:
    return {
        name: {"mean": float(found.mean[k]), "low": float(found.low[k]), "high": float(found.high[k])}
        for k, name in enumerate(names)
    }
