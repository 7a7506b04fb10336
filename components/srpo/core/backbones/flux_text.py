"""FLUX.1's two text encoders: a prompt becomes T5 states and one pooled CLIP feature."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoTokenizer, CLIPTextModel, T5EncoderModel

from srpo.core.backbones.conditioning import Conditioning
from srpo.core.backbones.pipelines import text_tokens


@dataclasses.dataclass(frozen=True)
class FluxTextEncoder:
    """CLIP-L and T5-XXL (or a model's own smaller ones) with their tokenizers."""

    clip: Any
    clip_tokenizer: Any
    t5: Any
    t5_tokenizer: Any
    tokens: int  # T5 tokens a prompt is padded or cut to
    negative_prompt: ClassVar[str] = ""
    models: ClassVar[dict[str, Any]] = {"text_encoder": CLIPTextModel, "text_encoder_2": T5EncoderModel}

    @classmethod
    def load(
        cls, folder: Path, device: torch.device, dtype: torch.dtype, max_sequence_length: int = 0
    ) -> "FluxTextEncoder":
        """Load the encoders of a FLUX pipeline folder; 0 tokens: as many as the model was trained with.

        Weights are mapped from their files, so that the host holds no second copy of T5-XXL.

        Raises:
            InputError: the folder is not one of a FLUX pipeline, or the model takes fewer tokens.
        """
        tokens = text_tokens(folder, max_sequence_length)
        clip: Any = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=dtype)
        t5: Any = T5EncoderModel.from_pretrained(folder / "text_encoder_2", torch_dtype=dtype)
        return cls(
            clip.to(device).eval(),
            AutoTokenizer.from_pretrained(folder / "tokenizer"),
            t5.to(device).eval(),
            AutoTokenizer.from_pretrained(folder / "tokenizer_2"),
            tokens,
        )

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embeddings of ``prompts`` as FluxPipeline computes them: ``[B, L, D]`` and ``[B, P]``."""
        # A tokenizer may name no limit (10^30); the encoder has places for so many.
        length = min(self.clip_tokenizer.model_max_length, self.clip.config.max_position_embeddings)
        pooled = self.clip(self._ids(self.clip_tokenizer, prompts, length)).pooler_output
        states = self.t5(self._ids(self.t5_tokenizer, prompts, self.tokens))[0]
        return Conditioning(states, pooled)

    def _ids(self, tokenizer: Any, prompts: list[str], length: int) -> torch.Tensor:
        ids = tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        return ids.to(self.clip.device)
