"""From a pipeline folder to the adapters of its class."""

from pathlib import Path
from typing import Any

import torch

from srpo.core.backbones.backbone import Backbone
from srpo.core.backbones.conditioning import TextEncoder
from srpo.core.backbones.flux import Flux
from srpo.core.backbones.flux_text import FluxTextEncoder
from srpo.core.backbones.pipelines import check_folder
from srpo.core.backbones.qwen_image import QwenImage
from srpo.core.backbones.qwen_text import QwenTextEncoder

BACKBONES: dict[str, type[Backbone]] = {"FluxPipeline": Flux, "QwenImagePipeline": QwenImage}
TEXT_ENCODERS: dict[str, type[FluxTextEncoder] | type[QwenTextEncoder]] = {
    "FluxPipeline": FluxTextEncoder,
    "QwenImagePipeline": QwenTextEncoder,
}


def backbone_of(folder: Path) -> type[Backbone]:
    """The backbone for the pipeline in ``folder``; raises :class:`InputError` when there is none."""
    return BACKBONES[check_folder(folder)]


def text_encoders_of(folder: Path) -> dict[str, Any]:
    """The classes of the text encoders of the pipeline in ``folder``, by the parts that hold them."""
    return TEXT_ENCODERS[check_folder(folder)].models


def load_text_encoder(
    folder: Path, device: torch.device, dtype: torch.dtype, max_sequence_length: int = 0
) -> TextEncoder:
    """The text encoders of the pipeline in ``folder``; raises :class:`InputError` when there is no adapter for it."""
    return TEXT_ENCODERS[check_folder(folder)].load(folder, device, dtype, max_sequence_length)


def negative_prompt(folder: Path) -> str:
    """The prompt that true guidance leads away from, for the pipeline in ``folder``."""
    return TEXT_ENCODERS[check_folder(folder)].negative_prompt
