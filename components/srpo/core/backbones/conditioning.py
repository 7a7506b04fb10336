"""Stored embeddings back to what the velocity model takes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from srpo.core.backbones.flux import Conditioning
from srpo.core.contracts.tensors import EmbeddingsReader

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def read_conditioning(reader: EmbeddingsReader, prompt_ids: Sequence[str]) -> Conditioning:
    """Embeddings of ``prompt_ids`` in their stored dtype, on the CPU."""
    rows = [reader.read(prompt_id) for prompt_id in prompt_ids]

    def tensor(raw: bytes, shape: tuple[int, ...]) -> Tensor:
        return torch.frombuffer(bytearray(raw), dtype=DTYPES[reader.info.dtype]).reshape(shape)

    return Conditioning(
        torch.stack([tensor(states, reader.info.prompt_embeds_shape) for states, _ in rows]),
        torch.stack([tensor(pooled, reader.info.pooled_shape) for _, pooled in rows]),
    )
