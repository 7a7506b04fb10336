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
from srpo.core.storage.files import appearing, digest_of, sha256_of
from srpo.train.config import Config


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


class Latents:
    """Clean latents of real images ``<prompt_id>.png``, in place of rollouts (the offline variant).

    A latent is computed once and kept below ``cache`` under all that it depends on (the image's bytes, the base
    model, the size): what is read back is what was computed, and another image or model is another file.
    """

    def __init__(self, config: Config, base_digest: str, cache: Path) -> None:
        self.images, self.size = Path(config.offline_images), config.resolution
        self.base, self.cache = base_digest, cache

    def __call__(self, prompt_ids: Sequence[str], backbone: Backbone) -> Tensor:
        """``[B, N, C]`` float32 on the backbone's device."""
        device = next(backbone.transformer.parameters()).device
        return torch.cat([self._one(prompt_id, backbone, device) for prompt_id in prompt_ids]).to(device)

    def _one(self, prompt_id: str, backbone: Backbone, device: torch.device) -> Tensor:
        image = self.images / f"{prompt_id}.png"
        if not image.is_file():
            raise InputError(f"offline_images {str(self.images)!r} has no {image.name}: it must hold one a prompt")
        key = digest_of([sha256_of(image), self.base, self.size, str(backbone.compute_dtype)])
        kept = self.cache / f"{key}.safetensors"
        if not kept.is_file():
            latent = backbone.encode(read_pixels(image, self.size).to(device))
            with appearing(kept) as partial:
                save_file({"x0": latent.cpu().contiguous()}, partial)
        return load_file(kept)["x0"]


def read_pixels(path: Path, size: int) -> Tensor:
    """``[1, 3, size, size]`` in [0, 1]: the image's central square, scaled."""
    with Image.open(path) as image:
        square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 255
