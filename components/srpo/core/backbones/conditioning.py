"""What a velocity model gets besides latents, and stored embeddings back to it."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.tensors import EmbeddingsReader

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True)
class Conditioning:
    """Embeddings of B prompts: states of the text encoder ``[B, L, D]`` and one more vector ``[B, P]`` each.

    What ``pooled`` is depends on the model: FLUX's pooled CLIP feature, or for Qwen-Image the mask of the states
    (P = L; 1 for a token, 0 for padding). ``negative`` is the one row that true guidance leads away from.
    """

    prompt_embeds: Tensor
    pooled: Tensor
    negative: "Conditioning | None" = None

    def to(self, device: torch.device, dtype: torch.dtype) -> "Conditioning":
        """The same on another device and dtype."""
        negative = self.negative and self.negative.to(device, dtype)
        return Conditioning(self.prompt_embeds.to(device, dtype), self.pooled.to(device, dtype), negative)

    def away(self, guidance: float, batch: int) -> "Conditioning":
        """The negative prompt for ``batch`` samples; raises :class:`InputError`, naming ``guidance``, without one."""
        if self.negative is None:
            raise InputError(f"guidance is {guidance}: without embeddings of a negative prompt it must be at most 1")
        states, pooled = self.negative.prompt_embeds, self.negative.pooled
        return Conditioning(states.expand(batch, -1, -1), pooled.expand(batch, -1))

    def __getitem__(self, rows: slice | list[int]) -> "Conditioning":
        return Conditioning(self.prompt_embeds[rows], self.pooled[rows], self.negative)


class TextEncoder(Protocol):
    """A pipeline's text encoders: prompts to embeddings of a fixed shape."""

    @property
    def negative_prompt(self) -> str:
        """The prompt that true guidance leads away from."""

    def __call__(self, prompts: list[str]) -> Conditioning:
        """Embeddings of ``prompts`` as the pipeline computes them."""


def read_conditioning(reader: EmbeddingsReader, prompt_ids: Sequence[str]) -> Conditioning:
    """Embeddings of ``prompt_ids`` in their stored dtype, on the CPU."""

    def tensor(raw: bytes, shape: tuple[int, ...]) -> Tensor:
        return torch.frombuffer(bytearray(raw), dtype=DTYPES[reader.info.dtype]).reshape(shape)

    def stacked(rows: Sequence[tuple[bytes, bytes]], negative: Conditioning | None) -> Conditioning:
        return Conditioning(
            torch.stack([tensor(states, reader.info.prompt_embeds_shape) for states, _ in rows]),
            torch.stack([tensor(pooled, reader.info.pooled_shape) for _, pooled in rows]),
            negative,
        )

    negative = stacked([reader.negative], None) if reader.negative else None
    return stacked(reader.read(prompt_ids), negative)
