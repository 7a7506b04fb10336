"""One training step of Direct-Align / SRPO: the objective, read from top to bottom."""

import dataclasses
import time

import torch
from torch import Tensor

from srpo.core.backbones.backbone import Backbone
from srpo.core.backbones.conditioning import Conditioning
from srpo.core.contracts.order import prompt_order
from srpo.core.contracts.prompts import Prompt
from srpo.core.objective import draws
from srpo.core.objective.direct_align import euler_rollout
from srpo.core.objective.relative_reward import branch_reward, image_pair_reward, reward_loss
from srpo.core.rewards.dual_encoder import ImageTower
from srpo.core.rewards.scores import Reward as LoadedReward
from srpo.core.rewards.scores import plain_score
from srpo.train.batches import Latents, Texts
from srpo.train.config import Config
from srpo.train.estimates import Row, estimate, needs_rollout, rows_of
from srpo.train.interruption import Interruption


@dataclasses.dataclass(frozen=True)
class Reward:
    """A reward that is trained on: what is loaded of it, the role its text features are stored under, its weight."""

    role: str
    tower: LoadedReward
    weight: float


def gradient_step(
    config: Config,
    backbone: Backbone,
    rewards: list[Reward],
    texts: Texts,
    step: int,
    rows: list[int],
    scale: float,
    latents: Latents | None = None,
    interruption: Interruption | None = None,
) -> dict[str, float]:
    """Accumulate the gradient of step number ``step`` for the samples ``rows`` of its batch.

    Args:
        config: the run's settings.
        backbone: the model; its transformer receives the gradients.
        rewards: what is maximised, as a weighted sum.
        texts: embeddings and text features.
        step: from 0; with the seed and a sample's number it decides everything random.
        rows: which samples of the global batch this process computes.
        scale: factor on the loss of a sample, such that the sum over all samples and processes is the mean.
        latents: of real images, for the offline variant.
        interruption: asked before each micro-batch.

    Returns:
        Sums over ``rows`` of the loss and of each branch's reward, and the seconds of each phase.
    """
    size = config.resolution
    device = next(backbone.transformer.parameters()).device
    prompts = batch_prompts(config, texts, step)
    sums = dict.fromkeys(("loss", "reward_denoise", "reward_inversion"), 0.0)
    sigmas = backbone.sigmas(config.rollout_steps, config.static_shift, size, size)
    seconds = Stopwatch(device)

    for first in range(0, len(rows), config.micro_batch_size):
        if interruption:
            interruption.check()
        samples = rows[first : first + config.micro_batch_size]
        captions = [prompts[row] for row in samples]
        prompt_ids = [prompt.prompt_id for prompt in captions]
        condition = texts.conditioning(prompt_ids, device, backbone.compute_dtype)
        texts.embeddings.prefetch(next_prompts(config, texts, step, prompts, rows, first))
        noise = step_noise(config, backbone, step, samples).to(device)
        x0 = None
        if needs_rollout(config):
            with seconds("rollout"):
                x0 = latents(prompt_ids, backbone) if latents else clean_latents(config, backbone, condition, noise)
        wanted = rows_of(config, samples)
        number = len(wanted) // len(samples)
        for start in range(0, len(wanted), config.micro_batch_size):
            part = wanted[start : start + config.micro_batch_size]
            places = [row.place for row in part]
            given = condition[places]

            def velocity(x: Tensor, sigma: Tensor, given: Conditioning = given) -> Tensor:
                return backbone.velocity(x, sigma, given, config.guidance, size, size, config.true_guidance)

            with seconds("forward"):
                clean = None if x0 is None else x0[places]
                found = estimate(config, velocity, sigmas, clean, noise[places], step, part)
            with seconds("decode"):
                pixels = backbone.decode(found.x0_hat, size, size)
            with seconds("reward"):
                gain = torch.zeros(len(part), device=device)
                for reward in rewards:
                    seen = row_gain(config, reward, texts, pixels, found.k, step, part, [captions[p] for p in places])
                    gain = gain + reward.weight * seen
                margin = config.margin if config.loss == "hinge" else None
                loss = reward_loss(gain, margin, found.weight.to(gain))
            with seconds("backward"):
                (loss.sum() * (scale / number)).backward()
            sums["loss"] += float(loss.detach().sum()) / number
            for row, value in zip(part, gain.tolist(), strict=True):
                branch = "inversion" if row.inverted else "denoise"
                sums[f"reward_{branch}"] += value / (number / branches(config))
    return sums | {f"seconds_{phase}": value for phase, value in seconds.total.items()}


def batch_prompts(config: Config, texts: Texts, step: int) -> list[Prompt]:
    """The prompts that step number ``step`` draws, over all processes."""
    order = prompt_order((step + 1) * config.batch_size, len(texts.prompts), config.seed)
    return [texts.prompts[place] for place in order[-config.batch_size :]]


def next_prompts(
    config: Config, texts: Texts, step: int, prompts: list[Prompt], rows: list[int], first: int
) -> list[str]:
    """The ids that this process needs after the micro-batch of ``prompts`` that begins at ``rows[first]``."""
    first += config.micro_batch_size
    if first >= len(rows):
        prompts, first = batch_prompts(config, texts, step + 1), 0
    return [prompts[row].prompt_id for row in rows[first : first + config.micro_batch_size]]


def row_gain(
    config: Config,
    reward: Reward,
    texts: Texts,
    pixels: Tensor,
    k: Tensor,
    step: int,
    rows: list[Row],
    prompts: list[Prompt],
) -> Tensor:
    """What one reward gives the images of ``rows``, ``[B]``: every caption under its own pair of control words."""
    k, samples = k.to(pixels), [row.sample for row in rows]
    inverted = torch.tensor([row.inverted for row in rows], device=pixels.device)
    if config.image_pairs:
        noises = [draws.noise(pixels.shape[1:], config.seed, "copy", step, sample) for sample in samples]
        noised = pixels + config.image_pairs * torch.stack(noises).to(pixels)
        clean_score, noised_score = (
            plain_score(reward.tower, image, texts.rewards[reward.role], prompts) for image in (pixels, noised)
        )
        return image_pair_reward(inverted, clean_score, noised_score, k)
    if not isinstance(reward.tower, ImageTower):  # no words without text features: preflight allows the form `plain`
        return plain_score(reward.tower, pixels, texts.rewards[reward.role], prompts)
    features, prompt_ids = reward.tower(pixels), [prompt.prompt_id for prompt in prompts]
    positive, negative = zip(*words(config, texts, reward.role, step, samples), strict=True)
    wanted = texts.word_features(reward.role, prompt_ids, positive, pixels.device)
    other = texts.word_features(reward.role, prompt_ids, negative, pixels.device)
    return branch_reward(inverted, features, wanted, other, k, config.reward_form)


def words(config: Config, texts: Texts, role: str, step: int, samples: list[int]) -> list[tuple[str, str]]:
    """The pair of control words of each sample; the lists are the reward's own. The form ``plain`` has none."""
    if config.reward_form == "plain":
        return [("", "")] * len(samples)
    lists = texts.rewards[role].positive_words, texts.rewards[role].negative_words
    if config.words_per == "sample":
        return [draws.word_pair(*lists, config.seed, step, sample) for sample in samples]
    return [draws.word_pair(*lists, config.seed, step)] * len(samples)


def branches(config: Config) -> int:
    """How many branches a rollout's passes are spread over."""
    return 2 if config.method == "direct_align" and config.branches == "both" else 1


def step_noise(config: Config, backbone: Backbone, step: int, samples: list[int]) -> Tensor:
    """The noise of ``samples``, packed ``[B, N, C]``, on the CPU: one a step for the whole batch, or one a sample."""
    size = config.resolution
    shape = (1, backbone.latent_channels, size // backbone.vae_scale, size // backbone.vae_scale)
    if config.shared_noise:
        one = backbone.pack(draws.noise(shape, config.seed, "noise", step))
        return one.expand(len(samples), -1, -1)
    return backbone.pack(torch.cat([draws.noise(shape, config.seed, "noise", step, sample) for sample in samples]))


def clean_latents(config: Config, backbone: Backbone, condition: Conditioning, noise: Tensor) -> Tensor:
    """``x0 [B, N, C]``: rolled out from exactly ``noise`` without gradient."""
    size = config.resolution

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        return backbone.velocity(x, sigma, condition, config.rollout_guidance, size, size, config.true_guidance)

    return euler_rollout(velocity, noise, backbone.sigmas(config.rollout_steps, config.static_shift, size, size))


class Stopwatch:
    """Seconds by phase; waits for the device, so that a phase's work is counted where it was asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.total: dict[str, float] = {}
        self.phase = ""
        self.started = 0.0

    def __call__(self, phase: str) -> "Stopwatch":
        self.phase = phase
        return self

    def __enter__(self) -> "Stopwatch":
        self.started = self._now()
        return self

    def __exit__(self, *error: object) -> None:
        self.total[self.phase] = self.total.get(self.phase, 0.0) + self._now() - self.started

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
