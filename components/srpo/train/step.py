"""One training step of Direct-Align / SRPO: the objective, read from top to bottom."""

import dataclasses
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from srpo.core.backbones.flux import Conditioning, Flux
from srpo.core.objective import draws
from srpo.core.objective.direct_align import branch_sigmas, direct_align, euler_rollout
from srpo.core.objective.relative_reward import branch_reward, hinge
from srpo.core.objective.schedule import discount, draw_interval, sampler_sigmas, training_sigmas
from srpo.core.rewards.dual_encoder import ImageTower
from srpo.train.batches import Texts
from srpo.train.config import Config


@dataclasses.dataclass(frozen=True)
class Interval:
    """One gradient pass of a step: a branch between two sigmas, with its discount."""

    branch: str
    start: float
    end: float
    k: float


def gradient_step(
    config: Config, flux: Flux, reward: ImageTower, texts: Texts, step: int, rows: list[int], scale: float
) -> dict[str, float]:
    """Accumulate the gradient of step number ``step`` for the samples ``rows`` of its batch.

    Args:
        config: the run's settings.
        flux: the model; its transformer receives the gradients.
        reward: the image tower that is trained on.
        texts: embeddings and text features.
        step: from 0; with the seed and a sample's number it decides everything random.
        rows: which samples of the global batch this process computes.
        scale: factor on the loss of a sample, such that the sum over all samples and processes is the mean.

    Returns:
        Sums over ``rows`` of loss and rewards, and the seconds of each phase.
    """
    size = config.resolution
    device = next(flux.transformer.parameters()).device
    order = draws.prompt_order((step + 1) * config.batch_size, len(texts.prompts), config.seed)
    prompts = [texts.prompts[place] for place in order[-config.batch_size :]]
    word, other = draws.word_pair(texts.reward.positive_words, texts.reward.negative_words, config.seed, step)
    passes = list(gradient_passes(config, step))
    sums = dict.fromkeys(("loss", "reward_denoise", "reward_inversion"), 0.0)
    seconds = Stopwatch(device)

    for first in range(0, len(rows), config.micro_batch_size):
        samples = rows[first : first + config.micro_batch_size]
        prompt_ids = [prompts[row].prompt_id for row in samples]
        condition = texts.conditioning(prompt_ids, device, flux.compute_dtype)
        positive = texts.word_features(prompt_ids, [word] * len(samples), device)
        negative = texts.word_features(prompt_ids, [other] * len(samples), device)
        noise = step_noise(config, flux, step, samples).to(device)

        with seconds("rollout"):
            x0 = rollout(config, flux, noise, condition)
        for part in passes:
            start, end, k = (torch.tensor(value, device=device) for value in (part.start, part.end, part.k))
            with seconds("forward"):
                x0_hat = direct_align(
                    lambda x, sigma, given=condition: flux.velocity(x, sigma, given, config.guidance, size, size),
                    x0,
                    noise,
                    start,
                    end,
                )
                pixels = flux.decode(x0_hat, size, size, checkpointed=config.gradient_checkpointing)
                gain = branch_reward(part.branch, reward(pixels), positive, negative, k, config.reward_form)
                loss = hinge(gain, config.margin)
            with seconds("backward"):
                (loss.sum() * (scale / len(passes))).backward()
            sums["loss"] += float(loss.detach().sum()) / len(passes)
            sums[f"reward_{part.branch}"] += float(gain.detach().sum()) / config.injections
    return sums | {f"seconds_{phase}": value for phase, value in seconds.total.items()}


def gradient_passes(config: Config, step: int) -> Iterator[Interval]:
    """The gradient passes of a step: for each injection one interval, for each branch one pass.

    The interval is the same for the whole batch (as published). A discount is read at the lower sigma of its branch's own
    interval.
    """
    grid = training_sigmas(config.sigma_low, config.sigma_high, config.sigma_bins)
    for injection in range(config.injections):
        generator = draws.generator(config.seed, "interval", step, injection)
        high, low = (torch.tensor(s, dtype=torch.float64) for s in draw_interval(grid, config.interval_bins, generator))
        for branch, k_ends in (("denoise", config.k_denoise), ("inversion", config.k_inversion)):
            if config.branches in ("both", branch):
                start, end = branch_sigmas(branch, high, low, config.matched_destination)
                k = discount(torch.minimum(start, end), config.sigma_low, config.sigma_high, *k_ends)
                yield Interval(branch, float(start), float(end), float(k))


def step_noise(config: Config, flux: Flux, step: int, samples: list[int]) -> Tensor:
    """The noise of ``samples``, packed ``[B, N, C]``, on the CPU: one a step for the whole batch, or one a sample."""
    size = config.resolution
    shape = (1, flux.vae.config.latent_channels, size // flux.vae_scale, size // flux.vae_scale)
    if config.shared_noise:
        one = flux.pack(draws.noise(shape, config.seed, "noise", step))
        return one.expand(len(samples), -1, -1)
    return flux.pack(torch.cat([draws.noise(shape, config.seed, "noise", step, sample) for sample in samples]))


def rollout(config: Config, flux: Flux, noise: Tensor, condition: Conditioning) -> Tensor:
    """Clean latents from exactly this noise, without gradient, at the rollout's own guidance."""
    size = config.resolution
    sigmas = sampler_sigmas(config.rollout_steps, config.shift)
    return euler_rollout(
        lambda x, sigma: flux.velocity(x, sigma, condition, config.rollout_guidance, size, size), noise, sigmas
    )


class Stopwatch:
    """Seconds by phase; waits for the device, so that a phase's work is counted where it was asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.total: dict[str, float] = {}

    def __call__(self, phase: str) -> "Stopwatch":
        self.phase = phase
        return self

    def __enter__(self) -> None:
        self.started = self._now()

    def __exit__(self, *error: object) -> None:
        self.total[self.phase] = self.total.get(self.phase, 0.0) + self._now() - self.started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
