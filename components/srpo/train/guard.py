"""The guard: fixed prompts and noise, judged by the reward that is not trained on, decide what ships and when to stop.

The training reward can be hacked and its own curve is noisy, so neither decides. The best checkpoint is a trade-off:
the largest style gain (held-out SRP) among those whose held-out alignment (cosine with the plain prompt) fell by less
than a stated amount, and whose image statistics stayed within a stated factor of the base's. Maximising alignment
alone would ship the untouched base.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from srpo.core.backbones.backbone import Backbone
from srpo.core.contracts.order import prompt_order
from srpo.core.objective import draws
from srpo.core.objective.direct_align import euler_rollout
from srpo.core.rewards.image_statistics import diversity, image_statistics
from srpo.core.rewards.scores import Scorer
from srpo.train.batches import Texts
from srpo.train.config import Config
from srpo.train.interruption import Interruption

STATISTICS = ("saturation", "contrast", "sharpness", "diversity")


@dataclasses.dataclass(frozen=True)
class Reading:
    """What the guard saw at a step: means over its fixed images."""

    step: int
    held_out: float  # cosine with the plain prompt
    held_out_srp: float  # style, by the held-out reward
    saturation: float
    contrast: float
    sharpness: float
    diversity: float


def read_guard(
    config: Config, backbone: Backbone, judge: Scorer, texts: Texts, step: int, interruption: Interruption
) -> Reading:
    """Sample the guard's images with the model as it is now, split over the ranks by prompt, and judge them.

    ``interruption`` is asked before each prompt.
    """
    size, device = config.resolution, next(backbone.transformer.parameters()).device
    order = prompt_order(len(texts.prompts), len(texts.prompts), config.seed)
    prompts = [texts.prompts[place] for place in order[: config.guard_prompts]]
    shape = (1, backbone.latent_channels, size // backbone.vae_scale, size // backbone.vae_scale)
    sigmas = backbone.sigmas(config.guard_steps, config.static_shift, size, size)
    own: dict[int, dict[str, float]] = {}
    for first in range(0, len(prompts), dist.get_world_size()):
        interruption.check()
        number = first + dist.get_rank()
        if number >= len(prompts):
            break
        ids = [prompts[number].prompt_id] * config.guard_noises
        condition = texts.conditioning(ids, device, backbone.compute_dtype)
        noises = [draws.noise(shape, config.seed, "guard", number, index) for index in range(config.guard_noises)]

        def velocity(x: torch.Tensor, sigma: torch.Tensor, given: Any = condition) -> torch.Tensor:
            return backbone.velocity(x, sigma, given, config.guidance, size, size, config.true_guidance)

        with torch.no_grad():
            x0 = euler_rollout(velocity, backbone.pack(torch.cat(noises)).to(device), sigmas)
            pixels = backbone.decode(x0, size, size)
            scores = judge(pixels, [prompts[number]] * config.guard_noises)
        values = {"held_out": scores["score"], "held_out_srp": scores["srp"], **image_statistics(pixels)}
        own[number] = {name: float(value.mean()) for name, value in values.items()}
        own[number]["diversity"] = float(diversity(pixels[None])[0])
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    seen = {number: values for part in everyone for number, values in part.items()}
    rows = [seen[number] for number in sorted(seen)]
    return Reading(step, **{name: sum(row[name] for row in rows) / len(rows) for name in rows[0]})


def sound(reading: Reading, base: Reading, config: Config) -> bool:
    """Whether a reading is good enough to ship: alignment held, image statistics within a factor of the base's."""
    if reading.held_out < base.held_out - config.guard_tolerance:
        return False
    factor = config.guard_drift
    return all(
        getattr(base, name) / factor <= getattr(reading, name) <= getattr(base, name) * factor for name in STATISTICS
    )


def best_reading(readings: Sequence[Reading], config: Config) -> Reading:
    """The reading whose weights ship: the most style among the sound ones; the first reading is the untouched base."""
    good = [reading for reading in readings if sound(reading, readings[0], config)]
    return max(good or readings[:1], key=lambda reading: reading.held_out_srp)


def collapsed(readings: Sequence[Reading], config: Config) -> bool:
    """Whether to stop: the last ``guard_patience`` readings were all unsound, after the base."""
    last = readings[1:][-config.guard_patience :]
    return len(last) == config.guard_patience and not any(sound(reading, readings[0], config) for reading in last)
