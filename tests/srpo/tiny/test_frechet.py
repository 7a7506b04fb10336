"""The Fréchet distance, against closed forms; and it needs no torch."""

import subprocess
import sys

import numpy as np
import pytest
import scipy.linalg

from srpo.tiny import frechet


def covariance(rng: np.random.Generator, size: int) -> np.ndarray:
    root = rng.normal(size=(size, size))
    return root @ root.T


def test_is_zero_for_equal_moments_and_counts_the_shift_of_means():
    rng = np.random.default_rng(0)
    mean, cov = rng.normal(size=5), covariance(rng, 5)
    assert frechet.frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-6)
    assert frechet.frechet_distance(mean, cov, mean + 2, cov) == pytest.approx(20)


def test_agrees_with_the_matrix_square_root():
    rng = np.random.default_rng(1)
    (mean1, cov1), (mean2, cov2) = ((rng.normal(size=6), covariance(rng, 6)) for _ in range(2))
    root = scipy.linalg.sqrtm(cov1 @ cov2).real
    expected = np.square(mean1 - mean2).sum() + np.trace(cov1 + cov2 - 2 * root)
    assert frechet.frechet_distance(mean1, cov1, mean2, cov2) == pytest.approx(expected)


def test_singular_covariances_are_no_problem():
    flat = np.diag([1.0, 0.0, 0.0])
    assert frechet.frechet_distance(np.zeros(3), flat, np.zeros(3), 4 * flat) == pytest.approx(1)


def test_reference_comes_back_as_saved(tmp_path):
    features = np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)
    frechet.save_reference(tmp_path, features)
    mean, cov = frechet.load_reference(tmp_path)
    np.testing.assert_allclose(mean, features.mean(0), atol=1e-6)
    np.testing.assert_allclose(cov, np.cov(features.T), atol=1e-6)


def test_world_and_distance_import_without_torch():
    code = "import sys; sys.modules['torch'] = None; import srpo.tiny.frechet, srpo.tiny.world"
    subprocess.run([sys.executable, "-c", code], check=True)
