"""The schedule that a model comes with, for a sampler that does not use a static shift."""

from pathlib import Path
from typing import Any

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor


def load_scheduler(folder: Path) -> Any:
    """The scheduler of a pipeline folder."""
    return FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")


def own_sigmas(scheduler: Any, steps: int, tokens: int) -> Tensor:
    """Sigmas as the model's own pipeline asks its scheduler for them: float64 ``[steps + 1]``, from 1 down to 0.

    FLUX.1-dev and Qwen-Image shift by ``exp(mu)``, and mu runs linearly in the number of image tokens; FLUX.1-schnell
    does not shift.
    """
    config = scheduler.config
    shortest, longest = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = low + (high - low) * (tokens - shortest) / (longest - shortest)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps, dtype=torch.float64).tolist(), mu=mu)
    return torch.as_tensor(scheduler.sigmas, dtype=torch.float64)
