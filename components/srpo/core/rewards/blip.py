"""ImageReward's released weights, under BLIP's names, renamed to those of transformers.

The text encoder has the same names in both. Of the architecture the shapes tell all but heads and norms: heads are 64
wide, norms those of BLIP, unless the release's ``med_config.json`` says otherwise of the text encoder.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

from srpo.core.contracts.errors import InputError
from srpo.core.rewards.checkpoints import check_complete

HEAD_WIDTH = 64
VISION_EPS, TEXT_EPS = 1e-6, 1e-12
OUTSIDE = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
IN_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def vision_model(weights: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """Configuration and weights of the image encoder (``blip.visual_encoder.*``), as transformers has them.

    Raises:
        InputError: names or shapes are not those of a BLIP image encoder.
    """
    own = _below(weights, "blip.visual_encoder.")
    renamed = {}
    for name, value in own.items():
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(weight|bias)", name)
        if name in OUTSIDE:
            renamed[OUTSIDE[name]] = value
        elif block and block[2] in IN_BLOCK:
            renamed[f"encoder.layers.{block[1]}.{IN_BLOCK[block[2]]}.{block[3]}"] = value
        else:
            raise InputError(f"the weights hold 'blip.visual_encoder.{name}': they must be those of ImageReward")
    patches, places = _needed(own, "patch_embed.proj.weight"), _needed(own, "pos_embed")
    config = BlipVisionConfig(
        hidden_size=len(patches),
        intermediate_size=len(_needed(own, "blocks.0.mlp.fc1.weight")),
        num_hidden_layers=sum(name.endswith("norm1.weight") for name in own),
        num_attention_heads=max(1, len(patches) // HEAD_WIDTH),
        patch_size=patches.shape[-1],
        image_size=patches.shape[-1] * round((places.shape[1] - 1) ** 0.5),
        layer_norm_eps=VISION_EPS,
    )
    check_complete(lambda: BlipVisionModel(config), renamed)
    return config, renamed


def text_model(weights: Mapping[str, Tensor], med_config: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """Configuration and weights of the text encoder (``blip.text_encoder.*``).

    ``med_config`` is the release's file of that name; it may be empty.

    Raises:
        InputError: names or shapes are not those of a BLIP text encoder that attends to images.
    """
    own = {name: value for name, value in _below(weights, "blip.text_encoder.").items() if "position_ids" not in name}
    words, first = _needed(own, "embeddings.word_embeddings.weight"), "encoder.layer.0"
    width = words.shape[1]
    config = BlipTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        encoder_hidden_size=_needed(own, f"{first}.crossattention.self.key.weight").shape[1],
        intermediate_size=len(_needed(own, f"{first}.intermediate.dense.weight")),
        num_hidden_layers=sum(name.endswith("intermediate.dense.weight") for name in own),
        num_attention_heads=med_config.get("num_attention_heads", max(1, width // HEAD_WIDTH)),
        max_position_embeddings=len(_needed(own, "embeddings.position_embeddings.weight")),
        hidden_act=med_config.get("hidden_act", "gelu"),
        layer_norm_eps=med_config.get("layer_norm_eps", TEXT_EPS),
    )
    check_complete(lambda: BlipTextModel(config, add_pooling_layer=False), own)
    return config, own


def _below(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _needed(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in weights:
        raise InputError(f"the weights lack {name!r}: they must be those of ImageReward")
    return weights[name]
