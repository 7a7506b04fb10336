"""Intervals and tests against scipy and against simulated truth."""

import numpy as np
import pytest
from scipy import linalg, stats

from srpo.evaluate import statistics
from srpo.evaluate.frechet import Reference, frechet_distance


def test_intervals_equal_scipys_bca_when_every_row_is_a_cluster_of_its_own():
    values = np.random.default_rng(3).exponential(1, (40, 1))  # skewed: percentile and BCa differ
    rows = np.arange(40)
    found = statistics.bootstrap_mean(values, rows, statistics.draw_weights(40, 20_000, 0), 0.95)
    theirs = stats.bootstrap((values[:, 0],), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    plain = stats.bootstrap(
        (values[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=1
    ).confidence_interval
    assert found.mean[0] == pytest.approx(values.mean())
    assert (found.low[0], found.high[0]) == pytest.approx((theirs.low, theirs.high), abs=0.012)
    assert abs(found.high[0] - plain.high) > 0.02


def test_intervals_cover_the_truth_as_often_as_they_say_only_when_clustered():
    generator = np.random.default_rng(11)
    prompts, noises, runs = 30, 4, 300
    cluster = np.repeat(np.arange(prompts), noises)
    of_prompt = generator.normal(0, 1, (prompts, runs))[cluster]
    values = 0.5 + of_prompt + generator.normal(0, 0.5, (prompts * noises, runs))  # each column is one study
    by_prompt = statistics.bootstrap_mean(values, cluster, statistics.draw_weights(prompts, 600, 1), 0.95)
    rows = np.arange(len(values))
    by_row = statistics.bootstrap_mean(values, rows, statistics.draw_weights(len(rows), 600, 1), 0.95)
    covered, naive = (np.mean((found.low <= 0.5) & (found.high >= 0.5)) for found in (by_prompt, by_row))
    assert 0.91 <= covered <= 0.98
    assert naive < 0.8


def test_sign_flip_rejects_a_true_null_no_more_often_than_it_says():
    generator = np.random.default_rng(5)
    cluster = np.repeat(np.arange(10), 3)
    nothing = generator.normal(0, 1, (10, 400))[cluster] + generator.normal(0, 0.3, (30, 400))
    assert np.mean(statistics.sign_flip_p(nothing, cluster, 999, 0) <= 0.05) <= 0.08
    assert np.mean(statistics.sign_flip_p(nothing + 2, cluster, 999, 0) <= 0.05) > 0.95


def test_few_prompts_can_never_be_significant():
    cluster = np.repeat(np.arange(3), 100)
    assert statistics.sign_flip_p(np.ones((300, 1)), cluster, 2000, 0)[0] > 0.2


def test_nothing_changed_gives_exactly_zero():
    values, cluster = np.zeros((12, 2)), np.repeat(np.arange(4), 3)
    found = statistics.bootstrap_mean(values, cluster, statistics.draw_weights(4, 200, 0), 0.95)
    assert not np.concatenate(found).any()
    assert statistics.sign_flip_p(values, cluster, 200, 0).tolist() == [1, 1]


def test_prompts_with_more_images_weigh_more():
    values, cluster = np.array([[1.0], [1.0], [1.0], [5.0]]), np.array([0, 0, 0, 1])
    found = statistics.bootstrap_mean(values, cluster, statistics.draw_weights(2, 200, 0), 0.95)
    assert found.mean[0] == 2


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
