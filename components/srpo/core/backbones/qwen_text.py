"""Qwen-Image's text encoder: a prompt in its template becomes the last hidden states of Qwen2.5-VL."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.nn.functional import pad
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from srpo.core.backbones.conditioning import Conditioning
from srpo.core.backbones.pipelines import QWEN_TOKENS, text_tokens

# The words that the model was trained with; the states of the first tokens, up to the prompt, are dropped.
TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
DROPPED = 34


@dataclasses.dataclass(frozen=True)
class QwenTextEncoder:
    """Qwen2.5-VL (or a model's own smaller one) with its tokenizer."""

    model: Any
    tokenizer: Any
    negative_prompt: ClassVar[str] = " "
    models: ClassVar[dict[str, Any]] = {"text_encoder": Qwen2_5_VLForConditionalGeneration}

    @classmethod
    def load(
        cls, folder: Path, device: torch.device, dtype: torch.dtype, max_sequence_length: int = 0
    ) -> "QwenTextEncoder":
        """Load the encoder of a Qwen-Image pipeline folder; raises :class:`InputError` when it is not one."""
        text_tokens(folder, max_sequence_length)
        model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", torch_dtype=dtype)
        return cls(model.to(device).eval(), AutoTokenizer.from_pretrained(folder / "tokenizer"))

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embeddings of ``prompts`` as QwenImagePipeline computes them, and their mask: ``[B, 512, D], [B, 512]``.

        Padding is zero in both.
        """
        tokens = self.tokenizer(
            [TEMPLATE.format(prompt) for prompt in prompts],
            max_length=DROPPED + QWEN_TOKENS,  # the model is causal: what is cut would have changed nothing before it
            padding=True,
            truncation=True,
            return_tensors="pt",
        ).to(self.model.device)
        # The model below the head, which would make logits of the whole vocabulary for every token.
        states = self.model.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        kept = [row[mask.bool()][DROPPED:] for row, mask in zip(states, tokens.attention_mask, strict=True)]
        return Conditioning(
            torch.stack([pad(row, (0, 0, 0, QWEN_TOKENS - len(row))) for row in kept]),
            torch.stack([pad(row.new_ones(len(row)), (0, QWEN_TOKENS - len(row))) for row in kept]),
        )
