"""Every measurement of an image: both rewards, image statistics and, where the base has one, its independent judge."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from srpo.core.contracts.prompts import Prompt
from srpo.core.contracts.tensors import read_text_features
from srpo.core.rewards.image_statistics import image_statistics
from srpo.core.rewards.scores import Scorer
from srpo.core.storage.models import ModelEntry, required, reward_roles
from srpo.tiny import world
from srpo.tiny.judge import Judge, load_judge

JUDGED_SIZE = 32  # pixels


@dataclasses.dataclass(frozen=True)
class Scorers:
    """The loaded scorers of a run; called with a batch of images."""

    rewards: dict[str, Scorer]
    judge: Judge | None
    judges_content: bool  # of a whole run, not of a batch: every image of a run has the same measurements

    @classmethod
    def load(
        cls,
        models: dict[str, ModelEntry | None],
        text_features: Path,
        device: torch.device,
        prompts: Sequence[Prompt] = (),
    ) -> "Scorers":
        """Load all rewards with their text features, and the judge if there is one.

        ``prompts`` are all that the run judges, over all shards; without them, all are captions of the tiny world.
        """
        table = text_features / "text_features.parquet"
        rewards = {
            role: Scorer.load(required(models, role).folder, read_text_features(table, role), device)
            for role in [*reward_roles(models), "held_out"]
        }
        judge = models.get("judge")
        known = all(scene_of(prompt.prompt) is not None for prompt in prompts)
        return cls(rewards, load_judge(judge.folder) if judge else None, known)

    @torch.no_grad()
    def __call__(
        self, pixels: Tensor, prompts: Sequence[Prompt]
    ) -> tuple[dict[str, Tensor], np.ndarray[Any, Any] | None]:
        """Scores by name, each ``[B]`` on the CPU, and the judge's features ``[B, F]`` (None without a judge).

        ``pixels`` are ``[B, 3, H, W]`` in [0, 1]. ``content`` (1 when shape, colour and background are those of the
        prompt) is there only when every prompt of the run is a caption of the tiny world, which is all that the judge
        knows.
        """
        scores: dict[str, Tensor] = {}
        for role, scorer in self.rewards.items():
            scores |= {f"{role}.{name}": value for name, value in scorer(pixels, prompts).items()}
        scores |= {name: value.cpu() for name, value in image_statistics(pixels).items()}
        if self.judge is None:
            return scores, None
        verdict = self.judge.verdict(resized(pixels, JUDGED_SIZE).cpu())  # a small network, which stays on the CPU
        scores["p_realistic"] = verdict.p_realistic
        if self.judges_content:
            scores["content"] = verdict.content([world.parse(prompt.prompt) for prompt in prompts]).float()
        return scores, verdict.features.numpy()


def resized(pixels: Tensor, size: int) -> Tensor:
    """``pixels [B, 3, H, W]`` at the one size that the judge knows, in [0, 1]."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    return functional.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def scene_of(prompt: str) -> world.Scene | None:
    """The tiny world's scene that a prompt describes, or None."""
    try:
        return world.parse(prompt)
    except ValueError:
        return None
