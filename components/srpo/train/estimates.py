"""The estimates of the clean latent that a step scores: one model call with gradient each, by method."""

import dataclasses

import torch
from torch import Tensor

from srpo.core.objective import draws
from srpo.core.objective.baselines import draft, draft_lv, refl
from srpo.core.objective.direct_align import Velocity, branch_sigmas, direct_align
from srpo.core.objective.schedule import discount, draw_interval, late_weight, training_sigmas
from srpo.train.config import Config


@dataclasses.dataclass(frozen=True)
class Row:
    """One estimate of one sample: what a gradient pass holds many of."""

    place: int  # of the sample among those that were rolled out together
    sample: int  # its number within the global batch: with seed and step it decides everything random
    draw: int = 0  # which injection, or which draw of DRaFT-LV
    inverted: bool = False  # of the inversion branch, where the other text is wanted


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One gradient pass over B rows."""

    x0_hat: Tensor  # the estimates, packed [B, N, C], with gradient
    k: Tensor  # discount of the reward, [B]
    weight: Tensor  # multiplier of the reward (lambda), [B]


def needs_rollout(config: Config) -> bool:
    """Whether the method starts from a clean latent; the others roll out by themselves."""
    return config.method in ("direct_align", "draft_lv")


def rows_of(config: Config, samples: list[int]) -> list[Row]:
    """Every row of ``samples`` that were rolled out together: a sample's loss is the mean over its rows."""
    if config.method != "direct_align":
        number = config.draft_lv_draws if config.method == "draft_lv" else 1
        return [Row(place, sample, draw) for draw in range(number) for place, sample in enumerate(samples)]
    return [
        Row(place, sample, injection, branch == "inversion")
        for injection in range(config.injections)
        for branch in ("denoise", "inversion")
        if config.branches in ("both", branch)
        for place, sample in enumerate(samples)
    ]


def estimate(
    config: Config, velocity: Velocity, sigmas: Tensor, x0: Tensor | None, noise: Tensor, step: int, rows: list[Row]
) -> Estimate:
    """One gradient pass: the estimates of ``rows`` in step number ``step`` (from 0).

    Args:
        config: the run's settings.
        velocity: the model for the rows' plain prompts, at the gradient step's guidance.
        sigmas: the sampler's schedule, which the baselines roll out along.
        x0: clean latents of the rows ``[B, N, C]``, for the methods that need them.
        noise: the noise that they were rolled out from, ``[B, N, C]``.
        step: from 0.
        rows: what to estimate.
    """
    none, one = torch.zeros(len(rows)), torch.ones(len(rows))
    if config.method == "refl":
        first = int((1 - config.refl_window) * config.rollout_steps)
        stop = int(torch.randint(first, config.rollout_steps, (), generator=draws.generator(config.seed, "refl", step)))
        return Estimate(refl(velocity, noise, sigmas, stop), none, one)
    if config.method == "draft":
        return Estimate(draft(velocity, noise, sigmas, config.draft_steps), none, one)
    assert x0 is not None
    if config.method == "draft_lv":
        again = fresh_noise(noise, config.seed, step, rows)
        return Estimate(draft_lv(velocity, x0, again, sigmas[-2]), none, one)
    sigma_range, sigmas_of_rows, discounts, weights = (config.sigma_low, config.sigma_high), [], [], []
    for row in rows:
        high, low = interval(config, step, row.draw, row.sample)
        branch, k_ends = ("inversion", config.k_inversion) if row.inverted else ("denoise", config.k_denoise)
        start, end = branch_sigmas(branch, high, low, config.matched_destination)
        lower = torch.minimum(start, end)
        sigmas_of_rows.append(torch.stack((start, end)))
        discounts.append(discount(lower, *sigma_range, *k_ends))
        weights.append(late_weight(lower, *sigma_range) if config.late_weighting else one[0])
    start, end = torch.stack(sigmas_of_rows, 1)
    x0_hat = direct_align(velocity, x0, noise, start.to(x0), end.to(x0))
    return Estimate(x0_hat, torch.stack(discounts), torch.stack(weights))


def interval(config: Config, step: int, injection: int, sample: int) -> tuple[Tensor, Tensor]:
    """``(high, low)`` sigmas of a sample, float64 scalars: one interval a step and injection, or one a sample."""
    grid = training_sigmas(config.sigma_low, config.sigma_high, config.sigma_bins)
    parts = (step, injection, sample) if config.interval_per_sample else (step, injection)
    ends = draw_interval(grid, config.interval_bins, draws.generator(config.seed, "interval", *parts))
    high, low = torch.tensor(ends, dtype=torch.float64)
    return high, low


def fresh_noise(like: Tensor, seed: int, step: int, rows: list[Row]) -> Tensor:
    """Noise of its own for each sample and draw, of the shape of ``like``."""
    noise = [draws.noise(like.shape[1:], seed, "renoise", step, row.draw, row.sample) for row in rows]
    return torch.stack(noise).to(like)
