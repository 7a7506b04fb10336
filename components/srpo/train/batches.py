"""What a training step needs of the earlier stages: embeddings for the velocity, text features for the reward."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from srpo.core.backbones.conditioning import read_conditioning
from srpo.core.backbones.flux import Conditioning
from srpo.core.contracts.errors import InputError
from srpo.core.contracts.prompts import Prompt, of_split, read_prompts
from srpo.core.contracts.tensors import EmbeddingsReader, TextFeatures, read_text_features


@dataclasses.dataclass(frozen=True)
class Texts:
    """Everything textual of a run, by prompt: training prompts, their embeddings and the rewards' text features."""

    prompts: list[Prompt]  # the training split, sorted by id
    embeddings: EmbeddingsReader
    reward: TextFeatures
    held_out: TextFeatures

    @classmethod
    def open(cls, prompts: Path, embeddings: Path, text_features: Path, encoder: str) -> "Texts":
        """Open the three artifacts.

        Args:
            encoder: digest of the base model that is trained.

        Raises:
            InputError: embeddings made by another model's encoders, or artifacts that are not what they should be.
        """
        reader = EmbeddingsReader(embeddings / "embeddings.parquet")
        if reader.info.encoder != encoder:
            raise InputError(
                f"{embeddings} was made by the encoders of {reader.info.encoder[:12]}, "
                f"the model to train is {encoder[:12]}: run encode_prompts with this model"
            )
        features = text_features / "text_features.parquet"
        return cls(
            of_split(read_prompts(prompts), "train"),
            reader,
            read_text_features(features, "reward"),
            read_text_features(features, "held_out"),
        )

    def conditioning(self, prompt_ids: Sequence[str], device: torch.device, dtype: torch.dtype) -> Conditioning:
        """Embeddings of the plain prompts, one row each; control words never reach the velocity model."""
        return read_conditioning(self.embeddings, prompt_ids).to(device, dtype)

    def word_features(self, prompt_ids: Sequence[str], words: Sequence[str], device: torch.device) -> Tensor:
        """The reward's text features ``[B, D]``: of every prompt under its own word."""
        rows = [self.reward(prompt_id, word) for prompt_id, word in zip(prompt_ids, words, strict=True)]
        return torch.from_numpy(np.stack(rows)).to(device)
