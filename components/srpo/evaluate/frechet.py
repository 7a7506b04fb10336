"""The Fréchet distance between feature distributions taken as Gaussians; numpy only."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Reference:
    """A fixed Gaussian (mean [D], covariance [D, D]) to which distances are measured; its matrix root is kept."""

    def __init__(self, mean: Array, cov: Array) -> None:
        self.mean, self.cov = mean.astype(np.float64), cov.astype(np.float64)
        values, vectors = np.linalg.eigh(self.cov)
        self.root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T

    def distance(self, mean: Array, cov: Array) -> float:
        """``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``, at least 0.

        C1 C2 has the eigenvalues of the symmetric ``root C2 root``, so no complex matrix root is needed.
        """
        cross = np.sqrt(np.maximum(np.linalg.eigvalsh(self.root @ cov @ self.root), 0)).sum()
        distance = np.square(mean - self.mean).sum() + np.trace(cov) + np.trace(self.cov) - 2 * cross
        return max(0.0, float(distance))

    def distance_of(self, features: Array, weights: Array) -> float:
        """Distance of ``features`` [N, D], row n counted ``weights[n]`` times (whole numbers, at least 2 in all)."""
        total = weights.sum()
        mean = weights @ features / total
        centred = features - mean
        return self.distance(mean, (centred * weights[:, None]).T @ centred / (total - 1))


def frechet_distance(mean1: Array, cov1: Array, mean2: Array, cov2: Array) -> float:
    """Fréchet distance of two Gaussians; means [D], covariances [D, D] (symmetric, not negative)."""
    return Reference(mean1, cov1).distance(mean2, cov2)
