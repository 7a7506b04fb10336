"""Intervals and tests against scipy and against simulated truth."""

import numpy as np
import pytest
from scipy import linalg, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from srpo.evaluate import comparison, statistics
from srpo.evaluate.frechet import Reference, frechet_distance


def test_of_an_even_spread_the_interval_is_students():
    values = np.array([[-2.0], [-1], [0], [1], [2], [3], [-3]]) + 0.5
    found = statistics.mean_interval(values, np.arange(7), 0.95)
    theirs = stats.ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    assert found.mean[0] == pytest.approx(values.mean())
    assert (found.low[0], found.high[0]) == pytest.approx((theirs.low, theirs.high))
    assert found.error[0] == pytest.approx(stats.sem(values[:, 0]))


def test_of_a_skewed_spread_the_long_side_reaches_farther():
    values = np.random.default_rng(3).exponential(1, (12, 1))
    found = statistics.mean_interval(values, np.arange(12), 0.95)
    theirs = stats.ttest_1samp(values[:, 0], 0).confidence_interval(0.95)
    assert found.low[0] == pytest.approx(theirs.low)
    assert found.high[0] > theirs.high + 0.1


def test_many_clusters_need_no_widening():
    assert statistics.levels(0.95, 100_000) == pytest.approx((0.025, 0.975), abs=1e-4)
    assert statistics.levels(0.95, 5)[0] < 0.001


def studies(kind, prompts, number):
    """Many studies at once with a known mean difference: clusters [N], values [N, number], the truth."""
    generator = np.random.default_rng(prompts)
    sizes = generator.integers(1, 7, prompts) if kind == "unequal" else np.full(prompts, 4)
    cluster = np.repeat(np.arange(prompts), sizes)
    shape = (prompts, number)
    if kind == "content":  # -1, 0 or 1: lost, kept, gained; rare, and more in some prompts
        gained = generator.random((len(cluster), number)) < 0.05
        lost = generator.random((len(cluster), number)) < generator.beta(1, 9, shape)[cluster]
        return cluster, gained.astype(float) - lost, -0.05
    if kind == "lognormal":
        return cluster, generator.lognormal(0, 1, shape)[cluster], np.exp(0.5)
    of_prompt = {
        "normal": lambda: generator.normal(0, 1, shape),
        "unequal": lambda: generator.normal(0, 1, shape),
        "heavy": lambda: generator.standard_t(3, shape),
        "skewed": lambda: (generator.gamma(4, 1, shape) - 4) / 2,
    }[kind]()
    return cluster, 0.5 + of_prompt[cluster] + generator.normal(0, 0.5, (len(cluster), number)), 0.5


@pytest.mark.parametrize("prompts", [2, 4, 20, 64])
@pytest.mark.parametrize("kind", ["normal", "heavy", "skewed"])
def test_intervals_cover_the_truth_in_93_of_100_studies_at_least(kind, prompts):
    cluster, values, truth = studies(kind, prompts, 1500)
    found = statistics.mean_interval(values, cluster, 0.95)
    assert 0.93 <= np.mean((found.low <= truth) & (truth <= found.high)) <= 0.98


@pytest.mark.parametrize(
    ("kind", "prompts", "least"),
    [("unequal", 20, 0.93), ("unequal", 64, 0.93), ("lognormal", 16, 0.89), ("lognormal", 64, 0.92)],
)
def test_intervals_nearly_cover_where_prompts_weigh_or_spread_very_unequally(kind, prompts, least):
    cluster, values, truth = studies(kind, prompts, 1500)
    found = statistics.mean_interval(values, cluster, 0.95)
    assert np.mean((found.low <= truth) & (truth <= found.high)) >= least


@pytest.mark.parametrize("prompts", [16, 64])
@pytest.mark.parametrize("chance", [0.02, 0.5, 0.97])
def test_intervals_of_shares_cover_where_hardly_an_image_or_nearly_each_is_right(prompts, chance):
    generator = np.random.default_rng(prompts)
    cluster, cut = np.repeat(np.arange(prompts), 2), stats.norm.isf(chance) * np.sqrt(1.25)
    of_prompt = generator.normal(0, 0.5, (prompts, 800))[cluster]
    before, after = ((of_prompt + generator.normal(0, 1, of_prompt.shape) > cut).astype(float) for _ in range(2))
    found = comparison.intervals(before, after, cluster, 0.95)
    for moment, truth in (("after", chance), ("delta", 0)):
        assert np.mean((found[moment].low <= truth) & (truth <= found[moment].high)) >= 0.93
        assert np.all(found[moment].high > found[moment].low)


def test_intervals_that_take_every_image_for_itself_do_not_cover():
    cluster, values, truth = studies("normal", 30, 500)
    found = statistics.mean_interval(values, np.arange(len(values)), 0.95)
    assert np.mean((found.low <= truth) & (truth <= found.high)) < 0.8
    assert len(values) == 4 * len(np.unique(cluster))


def test_sign_flip_rejects_a_true_null_no_more_often_than_it_says():
    generator = np.random.default_rng(5)
    cluster = np.repeat(np.arange(10), 3)
    nothing = generator.normal(0, 1, (10, 400))[cluster] + generator.normal(0, 0.3, (30, 400))
    assert np.mean(statistics.sign_flip_p(nothing, cluster, 999, 0) <= 0.05) <= 0.08
    assert np.mean(statistics.sign_flip_p(nothing + 2, cluster, 999, 0) <= 0.05) > 0.95


@pytest.mark.parametrize("prompts", [3, 6, 9, 12])
def test_sign_flips_equal_scipys_permutation_test(prompts):
    """Exactly, where all choices of signs are counted; nearly, where they are drawn (12 prompts have 4096)."""
    generator = np.random.default_rng(prompts)
    cluster = np.repeat(np.arange(prompts), 2)
    values = generator.normal(0.4, 1, (2 * prompts, 3))
    found = statistics.sign_flip_p(values, cluster, 2000, 0)
    means = values.reshape(prompts, 2, 3).mean(1)
    for k in range(3):
        theirs = stats.permutation_test(
            (means[:, k],), np.mean, permutation_type="samples", n_resamples=1 << prompts, rng=0
        ).pvalue
        assert found[k] == pytest.approx(theirs, abs=1e-12 if prompts < 11 else 0.04)


def test_few_prompts_can_never_be_significant():
    for prompts in (2, 3, 6, 20):
        every = statistics.sign_flip_p(np.ones((prompts, 1)), np.arange(prompts), 2000, 0)[0]
        assert every == pytest.approx(statistics.smallest_p(prompts, 2000), abs=2e-3)
    assert statistics.smallest_p(3, 2000) == 0.25
    # Six prompts reach 1/32, and Holm's first step for two measures asks for less than 0.025.
    assert [statistics.clusters_needed(tests, 0.05) for tests in (1, 2, 3)] == [6, 7, 7]


def test_swapping_rows_of_a_mean_is_flipping_signs():
    generator = np.random.default_rng(4)
    cluster, before = np.repeat(np.arange(15), 2), generator.normal(0, 1, 30)
    after = before + generator.normal(0.3, 0.6, 30)

    def difference(swapped):
        return float(np.where(swapped, before - after, after - before).mean())

    swapped = statistics.swap_p(difference, cluster, 2000, 1)
    flipped = statistics.sign_flip_p((after - before)[:, None], cluster, 2000, 2)[0]
    assert 0.001 < flipped < 0.3
    assert swapped == pytest.approx(flipped, abs=0.04)


def test_nothing_changed_gives_exactly_zero():
    values, cluster = np.zeros((12, 2)), np.repeat(np.arange(4), 3)
    found = statistics.mean_interval(values, cluster, 0.95)
    assert not np.concatenate(found).any()
    assert statistics.sign_flip_p(values, cluster, 200, 0).tolist() == [1, 1]


def test_prompts_with_more_images_weigh_more():
    values, cluster = np.array([[1.0], [1.0], [1.0], [5.0]]), np.array([0, 0, 0, 1])
    found = statistics.mean_interval(values, cluster, 0.95)
    assert found.mean[0] == 2


@pytest.mark.parametrize("number", [1, 2, 5, 40])
def test_corrections_equal_statsmodels(number):
    p_values = np.random.default_rng(number).beta(0.3, 2, number).round(2).tolist()  # many small ones, some equal
    family = {str(place): p for place, p in enumerate(p_values)}
    for ours, theirs in ((statistics.holm, "holm"), (statistics.benjamini_hochberg, "fdr_bh")):
        adjusted = ours(family)
        assert list(map(adjusted.get, family)) == pytest.approx(multipletests(p_values, method=theirs)[1].tolist())


@pytest.mark.parametrize(("prompts", "alpha", "power"), [(8, 0.05, 0.8), (64, 0.025, 0.8), (3200, 0.05, 0.9)])
def test_the_smallest_effect_is_that_of_statsmodels(prompts, alpha, power):
    size = TTestPower().solve_power(nobs=prompts, alpha=alpha, power=power)  # in standard deviations
    found = statistics.smallest_effect(np.array([1.0, 2.0]), prompts, alpha, power)
    assert found.tolist() == pytest.approx([size * np.sqrt(prompts), 2 * size * np.sqrt(prompts)], rel=1e-3)


def test_the_smallest_effect_is_found_as_often_as_it_says():
    """Of the very test that decides: sign flips over prompts, at 80 % power."""
    prompts, number = 24, 400
    generator = np.random.default_rng(8)
    cluster = np.repeat(np.arange(prompts), 2)
    spread = np.sqrt(1 + 0.5**2 / 2)
    effect = statistics.smallest_effect(np.array([spread / np.sqrt(prompts)]), prompts, 0.05, 0.8)[0]
    values = effect + generator.normal(0, 1, (prompts, number))[cluster] + generator.normal(0, 0.5, (48, number))
    assert np.mean(statistics.sign_flip_p(values, cluster, 999, 0) < 0.05) == pytest.approx(0.8, abs=0.06)
    found = statistics.mean_interval(values, cluster, 0.95)
    assert found.error.mean() == pytest.approx(spread / np.sqrt(prompts), rel=0.03)


def test_holm_gives_the_textbook_values():
    adjusted = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert adjusted == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})


def test_frechet_distance_of_diagonal_gaussians_has_its_closed_form():
    generator = np.random.default_rng(0)
    mean1, mean2 = generator.normal(size=(2, 6))
    var1, var2 = generator.uniform(0.1, 3, (2, 6))
    expected = np.square(mean1 - mean2).sum() + np.square(np.sqrt(var1) - np.sqrt(var2)).sum()
    assert frechet_distance(mean1, np.diag(var1), mean2, np.diag(var2)) == pytest.approx(expected)


def test_frechet_distance_agrees_with_scipys_matrix_root():
    left, right = np.random.default_rng(1).normal(size=(2, 50, 5)) @ np.diag([1, 2, 0.5, 1, 3])
    mean1, mean2, cov1, cov2 = left.mean(0), right.mean(0) + 1, np.cov(left.T), np.cov(right.T)
    root = linalg.sqrtm(cov1 @ cov2).real
    expected = np.square(mean1 - mean2).sum() + np.trace(cov1 + cov2 - 2 * root)
    assert frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected)
    assert frechet_distance(mean1, cov1, mean1, cov1) == pytest.approx(0, abs=1e-9)


def test_weights_count_rows_as_repetition_does():
    features = np.random.default_rng(2).normal(size=(20, 4))
    weights = np.arange(20) % 3
    repeated = np.repeat(features, weights, axis=0)
    reference = Reference(np.zeros(4), np.eye(4))
    assert reference.distance_of(features, weights.astype(float)) == pytest.approx(
        reference.distance(repeated.mean(0), np.cov(repeated.T))
    )
