"""Pixels as a reward was trained on them: antialiased bicubic on tensors, then a crop or a margin, then normalised.

Equal to what PIL makes of the image in floating point, and differentiable. Nothing is clamped: bicubic overshoots where
PIL cuts off at black and white, and a clamp would leave what is too bright without gradient for ever.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from srpo.core.contracts.errors import InputError, require

FITS = ("crop", "pad", "squash")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How an image becomes a square of ``size`` pixels."""

    size: int
    mean: Tensor  # [3, 1, 1]
    std: Tensor
    fit: str = "crop"  # shorter side scaled, centre cropped; longer side scaled, black margin; or both sides scaled

    @classmethod
    def read(cls, folder: Path, size: int, device: torch.device) -> "Preprocessing":
        """From ``preprocessor_config.json``: ``image_mean``, ``image_std`` and ``fit`` ("crop" where not named)."""
        path = folder / "preprocessor_config.json"
        try:
            settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            mean, std = (
                torch.tensor(settings[name], device=device, dtype=torch.float32).reshape(3, 1, 1)
                for name in ("image_mean", "image_std")
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError):
            raise InputError(f"{str(path)!r} must name image_mean and image_std, three numbers each") from None
        fit = settings.get("fit", "crop")
        require(fit in FITS, f"fit in {str(path)!r}", fit, f"one of {', '.join(FITS)}")
        return cls(size, mean, std, fit)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Normalised ``[B, 3, size, size]`` of ``pixels [B, 3, H, W]``, which are in about [0, 1]."""
        height, width = pixels.shape[-2:]
        if (height, width) != (self.size, self.size):
            pixels = self._fitted(pixels, height, width)
        return (pixels - self.mean) / self.std

    def _fitted(self, pixels: Tensor, height: int, width: int) -> Tensor:
        if self.fit == "squash":
            return _resized(pixels, self.size, self.size)
        if self.fit == "pad":
            scale = self.size / max(height, width)
            pixels = _resized(pixels, round(height * scale), round(width * scale))
            below, right = self.size - pixels.shape[-2], self.size - pixels.shape[-1]
            margins = (right // 2, right - right // 2, below // 2, below - below // 2)
            return functional.pad(pixels, margins)
        # CLIP's own: the longer side is cut down to a whole number, the middle rounded.
        shorter = min(height, width)
        pixels = _resized(pixels, int(self.size * height / shorter), int(self.size * width / shorter))
        top, left = (round((side - self.size) / 2) for side in pixels.shape[-2:])
        return pixels[..., top : top + self.size, left : left + self.size]


def _resized(pixels: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(pixels, (height, width), mode="bicubic", antialias=True, align_corners=False)
