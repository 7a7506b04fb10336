"""Scores of images under a reward of any kind: for judging, not for training."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srpo.core.contracts.prompts import Prompt
from srpo.core.contracts.tensors import TextFeatures
from srpo.core.objective.relative_reward import with_word
from srpo.core.rewards.aesthetic import Aesthetic
from srpo.core.rewards.dual_encoder import ImageTower
from srpo.core.rewards.folders import check_reward_folder
from srpo.core.rewards.image_reward import ImageReward

Reward = ImageTower | Aesthetic | ImageReward


def load_reward(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Reward:
    """What a run needs of a reward folder: of a dual encoder its image tower alone."""
    kinds: dict[str, type[Aesthetic] | type[ImageReward]] = {"aesthetic": Aesthetic, "image_reward": ImageReward}
    return kinds.get(check_reward_folder(folder), ImageTower).load(folder, device, dtype)


def plain_score(reward: Reward, pixels: Tensor, texts: TextFeatures, prompts: Sequence[Prompt]) -> Tensor:
    """The plain reward ``[B]`` of ``pixels [B, 3, H, W]`` under their own prompts, differentiable in the pixels."""
    if isinstance(reward, Aesthetic):
        return reward(pixels)
    if isinstance(reward, ImageReward):
        return reward(pixels, [prompt.prompt for prompt in prompts])
    features = reward(pixels)
    plain = np.stack([texts(prompt.prompt_id) for prompt in prompts])
    return (features * torch.from_numpy(plain).to(features)).sum(-1)


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A reward as a judge: images and their prompts in, two numbers an image out."""

    reward: Reward
    texts: TextFeatures

    @classmethod
    def load(cls, folder: Path, texts: TextFeatures, device: torch.device) -> "Scorer":
        """Load a reward folder in float32; ``texts`` are its text features, or its words alone where it has none."""
        return cls(load_reward(folder, device), texts)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """``score`` and ``srp`` of ``pixels [B, 3, H, W]`` (about [0, 1]), each ``[B]`` on the CPU.

        ``score`` is the reward under the plain prompt (alignment); ``srp`` its mean under each positive word less the
        mean under each negative word (style). An image-only reward knows neither: both are its grade.
        """
        if isinstance(self.reward, ImageTower):
            return prompt_scores(self.reward(pixels), self.texts, [prompt.prompt_id for prompt in prompts])
        if isinstance(self.reward, Aesthetic):
            grade = self.reward(pixels).cpu()
            return {"score": grade, "srp": grade}
        return joint_scores(self.reward, pixels, self.texts, [prompt.prompt for prompt in prompts])


def prompt_scores(features: Tensor, texts: TextFeatures, prompt_ids: Sequence[str]) -> dict[str, Tensor]:
    """``score`` and ``srp`` of images under a dual encoder, each ``[B]`` on the CPU: cosines.

    Args:
        features: unit image features ``[B, D]``.
        texts: the reward's text features.
        prompt_ids: the prompt of each image.
    """
    features = features.float().cpu()
    plain = torch.from_numpy(np.stack([texts(prompt_id) for prompt_id in prompt_ids]))

    def mean_feature(words: Sequence[str]) -> Tensor:
        return torch.from_numpy(
            np.stack([np.mean([texts(prompt_id, word) for word in words], axis=0) for prompt_id in prompt_ids])
        )

    style = mean_feature(texts.positive_words) - mean_feature(texts.negative_words)
    return {"score": (features * plain).sum(-1), "srp": (features * style).sum(-1)}


def joint_scores(reward: ImageReward, pixels: Tensor, texts: TextFeatures, prompts: Sequence[str]) -> dict[str, Tensor]:
    """``score`` and ``srp`` of images under a joint reward: an image is seen once and read under every word."""
    seen = reward.see(pixels)

    def mean_grade(words: Sequence[str]) -> Tensor:
        grades = [reward.grade(seen, [with_word(word, prompt) for prompt in prompts]) for word in words]
        return torch.stack(grades).mean(0).cpu()

    return {"score": mean_grade([""]), "srp": mean_grade(texts.positive_words) - mean_grade(texts.negative_words)}
