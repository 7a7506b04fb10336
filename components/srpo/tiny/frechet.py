"""The Fréchet distance between two sets of features, and the judge's stored reference; needs numpy only."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

REFERENCE = "reference.safetensors"
Array = NDArray[np.float64]


def frechet_distance(mean1: Array, cov1: Array, mean2: Array, cov2: Array) -> float:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)); means [D], covariances [D, D]."""
    root1 = _root(cov1)
    # cov1 cov2 has the eigenvalues of this product, which is symmetric: no complex matrix root is needed.
    eigenvalues = np.linalg.eigvalsh(root1 @ cov2 @ root1)
    cross = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    return float(np.square(mean1 - mean2).sum() + np.trace(cov1) + np.trace(cov2) - 2 * cross)


def _root(cov: Array) -> Array:
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def moments(features: NDArray[Any]) -> tuple[Array, Array]:
    """Mean [D] and covariance [D, D] of features [N, D]."""
    features = features.astype(np.float64)
    return features.mean(0), np.cov(features, rowvar=False)


def load_reference(path: str | Path) -> tuple[Array, Array]:
    """Mean and covariance of the judge's features over true realistic renders of the held-out scenes."""
    tensors = load_file(Path(path) / REFERENCE)
    return tensors["mean"].astype(np.float64), tensors["covariance"].astype(np.float64)


def save_reference(path: str | Path, features: NDArray[Any]) -> None:
    mean, covariance = moments(features)
    tensors = {"mean": mean.astype(np.float32), "covariance": covariance.astype(np.float32)}
    save_file(tensors, Path(path) / REFERENCE)
