"""The methods that Direct-Align is compared with: ReFL, DRaFT-K and DRaFT-LV.

Each gives an estimate of the clean latent with gradient, like :func:`srpo.core.objective.direct_align.direct_align`;
what is done with it (decode, reward, loss) is the same for all. Shapes as there; ``sigmas`` fall from 1 to 0.
"""

import itertools

import torch
from torch import Tensor

from srpo.core.objective.direct_align import Velocity, euler_rollout, inject, step


def refl(velocity: Velocity, noise: Tensor, sigmas: Tensor, stop: int) -> Tensor:
    """ReFL: roll out without gradient to ``sigmas[stop]``, then jump to the clean latent by one call with gradient.

    Args:
        velocity: the model.
        noise: ``[B, ...]``.
        sigmas: ``[steps + 1]``.
        stop: 0 <= stop < steps; ReFL draws it from the last 40 % of the schedule.

    Returns:
        ``x0_hat = x - sigma v``, of the shape of ``noise``.
    """
    x = euler_rollout(velocity, noise, sigmas[: stop + 1])
    sigma = sigmas[stop].to(x).expand(len(x))
    return step(x, velocity(x, sigma), sigma, torch.zeros_like(sigma))


def draft(velocity: Velocity, noise: Tensor, sigmas: Tensor, last: int = 1) -> Tensor:
    """DRaFT-K: the sampler's own result, with gradient through its last ``last`` steps (K = 1 is the cheap one)."""
    x = euler_rollout(velocity, noise, sigmas[: len(sigmas) - last])
    for start, end in itertools.pairwise(sigmas[len(sigmas) - last - 1 :].to(x)):
        x = step(x, velocity(x, start.expand(len(x))), start.expand(len(x)), end.expand(len(x)))
    return x


def draft_lv(velocity: Velocity, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """One draw of DRaFT-LV: the finished sample re-noised to the last step's ``sigma``, cleaned by one call.

    The method averages the gradients of several draws of ``noise`` for one ``x0``, which lowers their variance.
    """
    sigma = sigma.to(x0).expand(len(x0))
    x = inject(x0, noise, sigma)
    return step(x, velocity(x, sigma), sigma, torch.zeros_like(sigma))
