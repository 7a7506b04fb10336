"""Direct-Align: recover the clean image from any noise level by the noise that is known (paper, section 3.1).

Shapes: latents, noise and velocity are ``[B, ...]`` of one shape; a sigma is ``[B]`` or ``[]``, in [0, 1], 1 = pure
noise. All arithmetic here is float32 (or float64 when given so) whatever the model computes in: recovery divides by
``1 - sigma``, and in bfloat16 a perfect velocity would be off by .22 at sigma .964.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]  # (x [B, ...], sigma [B]) -> v [B, ...]

MAX_SIGMA = 0.999


def inject(x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """``x_sigma = (1 - sigma) x0 + sigma n``: the clean latent at noise level ``sigma`` (paper, eq. 3)."""
    sigma = _like(sigma, x0)
    return (1 - sigma) * _precise(x0) + sigma * _precise(noise)


def true_velocity(x0: Tensor, noise: Tensor) -> Tensor:
    """``v = n - x0``: the velocity that a perfect model predicts on the line between ``x0`` and ``noise``."""
    return _precise(noise) - _precise(x0)


def step(x: Tensor, velocity: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """One Euler step from noise level ``start`` to ``end``: denoising when ``end < start``, else inversion."""
    return _precise(x) + _like(end - start, x) * _precise(velocity)


def recover(x: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """``x0 = (x_sigma - sigma n) / (1 - sigma)``: exact when ``noise`` is the one that was injected (paper, eq. 4).

    Raises:
        ValueError: a sigma above ``MAX_SIGMA``, where the division has no meaning.
    """
    if bool((sigma > MAX_SIGMA).any()):
        raise ValueError(f"cannot recover at sigma {float(sigma.max()):.6f}: it must be at most {MAX_SIGMA}")
    sigma = _like(sigma, x)
    return (_precise(x) - sigma * _precise(noise)) / (1 - sigma)


def direct_align(velocity: Velocity, x0: Tensor, noise: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The model's one-step estimate of ``x0``, with gradient through exactly one call of ``velocity``.

    With ``start > end`` this is the *denoise* branch, where ``x0_hat = x0 - c (v - v_true)`` and ``c = d / (1 - end)``;
    with ``start < end`` the *inversion* branch, where the sign of ``c`` flips: the same reward then pushes the velocity
    the other way. ``d = |start - end|``; a perfect velocity gives ``x0`` back at every sigma.
    """
    start, end = start.expand(len(x0)), end.expand(len(x0))
    x = inject(x0, noise, start)
    return recover(step(x, velocity(x, start), start, end), noise, end)


def branch_sigmas(branch: str, high: Tensor, low: Tensor, matched_destination: bool = False) -> tuple[Tensor, Tensor]:
    """``(start, end)`` of a branch for the training interval ``[low, high]``.

    ``denoise`` goes from high to low and ``inversion`` from low to high. With ``matched_destination`` the inversion
    starts one interval lower and ends where the denoise ends, as the released trainer does.
    """
    if branch == "denoise":
        return high, low
    if branch == "inversion":
        return (2 * low - high, low) if matched_destination else (low, high)
    raise ValueError(f"branch is {branch!r}: it must be 'denoise' or 'inversion'")


@torch.no_grad()
def euler_rollout(velocity: Velocity, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Roll out from ``noise`` to a clean latent without gradient: one Euler step between neighbours of ``sigmas``.

    Args:
        velocity: the model.
        noise: ``[B, ...]``, the latent at ``sigmas[0] = 1``.
        sigmas: ``[steps + 1]``, falling to 0.

    Returns:
        ``x0`` of the shape of ``noise``, float32.
    """
    x = _precise(noise)
    for start, end in itertools.pairwise(sigmas.to(x)):
        start, end = start.expand(len(x)), end.expand(len(x))
        x = step(x, velocity(x, start), start, end)
    return x


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _like(sigma: Tensor, x: Tensor) -> Tensor:
    """``sigma`` with trailing axes, to multiply ``x [B, ...]``."""
    precise = _precise(x)
    return sigma.to(device=precise.device, dtype=precise.dtype).reshape(-1, *[1] * (x.ndim - 1))
