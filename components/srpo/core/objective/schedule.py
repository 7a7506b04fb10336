"""Sigmas: the sampler's schedule, the training grid, and the discounts that run along it (paper, sections 3 and 4).

A sigma is in [0, 1]; 1 is pure noise. Everything here is float64 on the CPU: a schedule is a list of numbers, not data.
"""

import torch
from torch import Tensor


def sampler_sigmas(steps: int, shift: float = 1.0) -> Tensor:
    """Sigmas of an Euler sampler with a static shift, from 1 down to 0.

    Args:
        steps: number of model calls, at least 1.
        shift: ``s -> shift s / (1 + (shift - 1) s)``; 1 leaves the schedule linear.

    Returns:
        float64 ``[steps + 1]``; the last one is 0.
    """
    linear = torch.linspace(1.0, 1.0 / steps, steps, dtype=torch.float64)
    shifted = shift * linear / (1 + (shift - 1) * linear)
    return torch.cat([shifted, torch.zeros(1, dtype=torch.float64)])


def training_sigmas(low: float, high: float, bins: int) -> Tensor:
    """The grid that training intervals are drawn from: float64 ``[bins + 1]``, from ``high`` down to ``low``."""
    return torch.linspace(high, low, bins + 1, dtype=torch.float64)


def draw_interval(grid: Tensor, width: int, generator: torch.Generator) -> tuple[float, float]:
    """One training interval ``(sigma_hi, sigma_lo)``: ``width`` bins of ``grid``, at a uniformly drawn place."""
    start = int(torch.randint(len(grid) - width, (), generator=generator))
    return float(grid[start]), float(grid[start + width])


def discount(sigma: Tensor, low: float, high: float, at_low: float, at_high: float) -> Tensor:
    """A discount ``k`` that runs linearly in sigma from ``at_low`` (at ``low``) to ``at_high`` (at ``high``).

    Sigmas outside of ``[low, high]`` get the nearer end's value.
    """
    place = ((sigma - low) / (high - low)).clamp(0.0, 1.0)
    return at_low + (at_high - at_low) * place


def late_weight(sigma: Tensor, low: float, high: float) -> Tensor:
    """The published multiplier ``lambda(u) = 3 u / (1 + 2 u)``, u in [0, 1] from low to high noise."""
    u = ((sigma - low) / (high - low)).clamp(0.0, 1.0)
    return 3 * u / (1 + 2 * u)
