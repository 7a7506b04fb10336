"""What a training step needs of the earlier stages: embeddings for the velocity, text features for the reward."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor

from srpo.core.backbones.backbone import Backbone
from srpo.core.backbones.conditioning import Conditioning, read_conditioning
from srpo.core.contracts.errors import InputError
from srpo.core.contracts.prompts import Prompt, of_split, read_prompts
from srpo.core.contracts.tensors import EmbeddingsReader, TextFeatures, read_text_features
from srpo.core.storage.files import appearing


@dataclasses.dataclass(frozen=True)
class Texts:
    """Everything textual of a run, by prompt: training prompts, their embeddings and the rewards' text features."""

    prompts: list[Prompt]  # the training split, sorted by id
    embeddings: EmbeddingsReader
    rewards: dict[str, TextFeatures]  # by role: reward, reward_2, ...
    held_out: TextFeatures

    @classmethod
    def open(cls, prompts: Path, embeddings: Path, text_features: Path, roles: Sequence[str], encoder: str) -> "Texts":
        """Open the three artifacts.

        Args:
            roles: of the rewards that are trained on.
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
            {role: read_text_features(features, role) for role in roles},
            read_text_features(features, "held_out"),
        )

    def conditioning(self, prompt_ids: Sequence[str], device: torch.device, dtype: torch.dtype) -> Conditioning:
        """Embeddings of the plain prompts, one row each; control words never reach the velocity model."""
        return read_conditioning(self.embeddings, prompt_ids).to(device, dtype)

    def word_features(self, role: str, prompt_ids: Sequence[str], words: Sequence[str], device: torch.device) -> Tensor:
        """A reward's text features ``[B, D]``: of every prompt under its own word ("" is the plain prompt)."""
        rows = [self.rewards[role](prompt_id, word) for prompt_id, word in zip(prompt_ids, words, strict=True)]
        return torch.from_numpy(np.stack(rows)).to(device)


def offline_latents(folder: Path, prompt_ids: Sequence[str], backbone: Backbone, size: int) -> Tensor:
    """Clean latents ``[B, N, C]`` of the real images ``<prompt_id>.png`` (the offline variant), scaled to ``size``.

    A latent is computed once and kept beside its image; what is read back is what was computed.

    Raises:
        InputError: a prompt without an image.
    """
    device = next(backbone.transformer.parameters()).device
    rows = []
    for prompt_id in prompt_ids:
        image, cached = folder / f"{prompt_id}.png", folder / f".{prompt_id}-{size}.safetensors"
        if not cached.is_file():
            if not image.is_file():
                raise InputError(f"offline_images {str(folder)!r} has no {image.name}: it must hold one a prompt")
            latent = backbone.encode(read_pixels(image, size).to(device))
            with appearing(cached) as partial:
                save_file({"x0": latent.cpu().contiguous()}, partial)
        rows.append(load_file(cached)["x0"])
    return torch.cat(rows).to(device)


def read_pixels(path: Path, size: int) -> Tensor:
    """``[1, 3, size, size]`` in [0, 1]: the image's central square, scaled."""
    with Image.open(path) as image:
        square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 255
