"""CLIP-like rewards: an image tower, a text tower and a cosine between them.

HPSv2, PickScore and CLIP itself are `CLIPModel`s; SigLIP is a second architecture of the same kind. A tower is loaded
alone: training needs only the image tower, caching only the text tower. Rewards run in float32 or bfloat16, never in
float16 (without a loss scaler its gradients underflow).
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    SiglipTextModel,
    SiglipVisionModel,
)

from srpo.core.contracts.errors import require
from srpo.core.rewards.checkpoints import load_pretrained
from srpo.core.rewards.folders import check_reward_folder
from srpo.core.rewards.preprocessing import Preprocessing

IMAGE_TOWERS: dict[str, Any] = {"clip": CLIPVisionModelWithProjection, "siglip": SiglipVisionModel}
TEXT_TOWERS: dict[str, Any] = {"clip": CLIPTextModelWithProjection, "siglip": SiglipTextModel}


def projection(kind: str, folder: Path) -> dict[str, int]:
    """The width of a CLIP's features, as the whole model states it.

    A tower is loaded by its own part of the configuration, which in released ones (laion's ViT-H/14, and so PickScore)
    states another width that is not the weights'.
    """
    if kind != "clip":
        return {}
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {"projection_dim": int(settings.get("projection_dim", 512))}


@dataclasses.dataclass(frozen=True)
class ImageTower:
    """Pixels to unit features, differentiable in the pixels."""

    model: Any
    preprocess: Preprocessing

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> "ImageTower":
        """Load the image tower of a reward folder and its preprocessing (``preprocessor_config.json``)."""
        kind = check_reward_folder(folder)
        if kind == "aesthetic":  # CLIP's image tower alone
            settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            config = CLIPVisionConfig(**settings | {"model_type": "clip_vision_model"})
            model = load_pretrained(CLIPVisionModelWithProjection, folder, device, dtype, config=config)
        else:
            require(kind in IMAGE_TOWERS, "kind of reward", kind, f"one of {', '.join(IMAGE_TOWERS)}")
            model = load_pretrained(IMAGE_TOWERS[kind], folder, device, dtype, **projection(kind, folder))
        return cls(model, Preprocessing.read(folder, int(model.config.image_size), device))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Unit-norm features ``[B, D]`` of ``pixels [B, 3, H, W]``, about [0, 1] and not clamped; float32."""
        output = self.model(self.preprocess(pixels).to(self.model.dtype))
        features = output.image_embeds if hasattr(output, "image_embeds") else output.pooler_output
        return functional.normalize(features.float(), dim=-1)


@dataclasses.dataclass(frozen=True)
class TextTower:
    """Texts to unit features."""

    model: Any
    tokenizer: Any

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> "TextTower":
        """Load the text tower of a reward folder and its tokenizer."""
        kind = check_reward_folder(folder)
        require(kind in TEXT_TOWERS, "kind of reward", kind, f"one of {', '.join(TEXT_TOWERS)}: it has text features")
        model = load_pretrained(TEXT_TOWERS[kind], folder, device, dtype, **projection(kind, folder))
        return cls(model, AutoTokenizer.from_pretrained(folder))

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        """Unit-norm features ``[B, D]`` of ``texts``; float32. Texts longer than the tower's context are cut."""
        # The context is the tower's own: a fixed length, so that a text's feature never depends on its neighbours.
        config = getattr(self.model.config, "text_config", self.model.config)
        length = min(int(self.tokenizer.model_max_length), int(config.max_position_embeddings))
        tokens = self.tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        output = self.model(tokens.input_ids.to(self.model.device))
        features = output.text_embeds if hasattr(output, "text_embeds") else output.pooler_output
        return functional.normalize(features.float(), dim=-1)
