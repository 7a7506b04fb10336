"""ImageReward: BLIP's text encoder reads the prompt while attending to the image, and a head grades what it has read.

Text and image meet in every layer, so there is no text feature to compute once: it judges, or is a plain reward.
Source: Xu et al., "ImageReward", arXiv 2304.05977; the encoders are those of BLIP, arXiv 2201.12086.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, BlipTextModel, BlipVisionModel

from srpo.core.rewards.checkpoints import load_pretrained
from srpo.core.rewards.heads import load_head
from srpo.core.rewards.preprocessing import Preprocessing


@dataclasses.dataclass(frozen=True)
class ImageReward:
    """Pixels and texts to grades of mean 0 and deviation 1 over the images it was trained on."""

    vision: Any
    text: Any
    head: nn.Sequential
    tokenizer: Any
    preprocess: Preprocessing
    length: int  # tokens; longer texts are cut
    mean: float
    deviation: float

    @classmethod
    def load(cls, folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> "ImageReward":
        """Load a folder that ``convert_reward`` made of the kind ``image_reward``."""
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        vision = load_pretrained(BlipVisionModel, folder / "vision", device, dtype)
        return cls(
            vision,
            load_pretrained(BlipTextModel, folder / "text", device, dtype, add_pooling_layer=False),
            load_head(folder / "head.safetensors", device),
            AutoTokenizer.from_pretrained(folder),
            Preprocessing.read(folder, int(vision.config.image_size), device),
            int(settings["text_length"]),
            float(settings["score_mean"]),
            float(settings["score_deviation"]),
        )

    def see(self, pixels: Tensor) -> Tensor:
        """What the text encoder attends to, ``[B, N, D]``, of ``pixels [B, 3, H, W]`` in about [0, 1], not clamped."""
        return self.vision(self.preprocess(pixels).to(self.vision.dtype)).last_hidden_state

    def grade(self, seen: Tensor, texts: list[str]) -> Tensor:
        """The grades ``[B]`` of images (as :meth:`see` gave them), each under its own text; float32."""
        # A fixed length, so that a grade never depends on the texts beside it.
        tokens = self.tokenizer(
            texts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).to(seen.device)
        read = self.text(
            input_ids=tokens.input_ids,
            attention_mask=tokens.attention_mask,
            encoder_hidden_states=seen,
            is_decoder=False,
        ).last_hidden_state
        return (self.head(read[:, 0].float()).squeeze(-1) - self.mean) / self.deviation

    def __call__(self, pixels: Tensor, texts: list[str]) -> Tensor:
        """The grades ``[B]`` of ``pixels [B, 3, H, W]``, each under its own text; differentiable in the pixels."""
        return self.grade(self.see(pixels), texts)
