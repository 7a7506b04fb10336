"""LAION's aesthetic predictor: a linear head on the image feature of CLIP L/14. It sees no text."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from srpo.core.rewards.dual_encoder import ImageTower
from srpo.core.rewards.heads import load_head


@dataclasses.dataclass(frozen=True)
class Aesthetic:
    """Pixels to a grade, about 1 to 10; differentiable in the pixels."""

    tower: ImageTower
    head: nn.Sequential

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> "Aesthetic":
        """Load a folder that ``convert_reward`` made of the kind ``aesthetic``."""
        return cls(ImageTower.load(folder, device, dtype), load_head(folder / "head.safetensors", device))

    def __call__(self, pixels: Tensor) -> Tensor:
        """The grades ``[B]`` of ``pixels [B, 3, H, W]``, about [0, 1] and not clamped; float32."""
        return self.head(self.tower(pixels)).squeeze(-1)
