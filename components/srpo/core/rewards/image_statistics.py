"""Statistics of images that no text reward sees: where a reward is hacked, these drift first.

Pixels are ``[B, 3, H, W]`` in about [0, 1]; they are clamped here, since a person sees them clamped.
"""

import torch
from torch import Tensor
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def image_statistics(pixels: Tensor) -> dict[str, Tensor]:
    """Each ``[B]``: mean HSV ``saturation``, ``contrast`` (deviation of luma), ``sharpness`` (mean |Laplacian|)."""
    pixels = pixels.float().clamp(0, 1)
    high, low = pixels.amax(1), pixels.amin(1)
    saturation = torch.where(high > 0, (high - low) / high.clamp_min(1e-6), torch.zeros_like(high))
    luma = (pixels * torch.tensor(LUMA, device=pixels.device).reshape(3, 1, 1)).sum(1, keepdim=True)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], device=pixels.device).reshape(1, 1, 3, 3)
    return {
        "saturation": saturation.mean((1, 2)),
        "contrast": luma.std((1, 2, 3), correction=0),
        "sharpness": functional.conv2d(luma, kernel).abs().mean((1, 2, 3)),
    }


def diversity(pixels: Tensor) -> Tensor:
    """How different images of one prompt are: mean absolute pixel difference over pairs, ``[P, N, 3, H, W] -> [P]``."""
    pixels = pixels.float().clamp(0, 1)
    number = pixels.shape[1]
    pairs = [(i, j) for i in range(number) for j in range(i + 1, number)]
    if not pairs:
        return torch.zeros(len(pixels), device=pixels.device)
    return torch.stack([(pixels[:, i] - pixels[:, j]).abs().mean((1, 2, 3)) for i, j in pairs]).mean(0)
