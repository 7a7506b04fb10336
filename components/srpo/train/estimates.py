"""The estimates of the clean latent that a step scores: one model call with gradient each, by method."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from srpo.core.objective import draws
from srpo.core.objective.baselines import draft, draft_lv, refl
from srpo.core.objective.direct_align import Velocity, branch_sigmas, direct_align
from srpo.core.objective.schedule import discount, draw_interval, late_weight, training_sigmas
from srpo.train.config import Config


@dataclasses.dataclass(frozen=True)
class Estimate:
    """One gradient pass over a micro-batch of B samples."""

    branch: str  # "denoise" or "inversion": which of the two texts is wanted
    x0_hat: Tensor  # the estimate, packed [B, N, C], with gradient
    k: Tensor  # discount of the reward, [B]
    weight: Tensor  # multiplier of the reward (lambda), [B]


def needs_rollout(config: Config) -> bool:
    """Whether the method starts from a clean latent; the others roll out by themselves."""
    return config.method in ("direct_align", "draft_lv")


def passes(config: Config) -> int:
    """Gradient passes for one rollout: a step's loss is their mean."""
    if config.method == "direct_align":
        return config.injections * (2 if config.branches == "both" else 1)
    return config.draft_lv_draws if config.method == "draft_lv" else 1


def estimates(
    config: Config,
    velocity: Velocity,
    sigmas: Tensor,
    x0: Tensor | None,
    noise: Tensor,
    step: int,
    samples: list[int],
) -> Iterator[Estimate]:
    """The gradient passes of the samples ``samples`` in step number ``step``, each computed when it is asked for.

    Args:
        config: the run's settings.
        velocity: the model for the plain prompts, at the gradient step's guidance.
        sigmas: the sampler's schedule, which the baselines roll out along.
        x0: clean latents ``[B, N, C]``, for the methods that need them.
        noise: the noise that they were rolled out from, ``[B, N, C]``.
        step: from 0.
        samples: numbers within the global batch: with seed and step they decide everything random.
    """
    none, one = torch.zeros(len(samples)), torch.ones(len(samples))
    if config.method == "refl":
        first = int((1 - config.refl_window) * config.rollout_steps)
        stop = int(torch.randint(first, config.rollout_steps, (), generator=draws.generator(config.seed, "refl", step)))
        yield Estimate("denoise", refl(velocity, noise, sigmas, stop), none, one)
    elif config.method == "draft":
        yield Estimate("denoise", draft(velocity, noise, sigmas, config.draft_steps), none, one)
    elif config.method == "draft_lv":
        assert x0 is not None
        for draw in range(config.draft_lv_draws):
            again = fresh_noise(noise, config.seed, step, draw, samples)
            yield Estimate("denoise", draft_lv(velocity, x0, again, sigmas[-2]), none, one)
    else:
        assert x0 is not None
        for injection in range(config.injections):
            high, low = interval(config, step, injection, samples)
            for branch, k_ends in (("denoise", config.k_denoise), ("inversion", config.k_inversion)):
                if config.branches in ("both", branch):
                    start, end = branch_sigmas(branch, high, low, config.matched_destination)
                    lower = torch.minimum(start, end)
                    k = discount(lower, config.sigma_low, config.sigma_high, *k_ends)
                    weight = late_weight(lower, config.sigma_low, config.sigma_high) if config.late_weighting else one
                    yield Estimate(branch, direct_align(velocity, x0, noise, start.to(x0), end.to(x0)), k, weight)


def interval(config: Config, step: int, injection: int, samples: list[int]) -> tuple[Tensor, Tensor]:
    """``(high, low)`` sigmas of the samples, each float64 ``[B]``: one interval a step, or one a sample."""
    grid = training_sigmas(config.sigma_low, config.sigma_high, config.sigma_bins)
    ends = []
    for sample in samples:
        parts = (step, injection, sample) if config.interval_per_sample else (step, injection)
        generator = draws.generator(config.seed, "interval", *parts)
        ends.append(draw_interval(grid, config.interval_bins, generator))
    high, low = torch.tensor(ends, dtype=torch.float64).unbind(1)
    return high, low


def fresh_noise(like: Tensor, seed: int, step: int, draw: int, samples: list[int]) -> Tensor:
    """Noise of its own for each sample and draw, of the shape of ``like``."""
    rows = [draws.noise(like.shape[1:], seed, "renoise", step, draw, sample) for sample in samples]
    return torch.stack(rows).to(like)
