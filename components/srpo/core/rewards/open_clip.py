"""CLIP weights under open_clip's names, as HPSv2, HPSv2.1 and LAION released theirs, renamed to those of transformers.

Shapes tell nearly everything of the architecture; the number of heads and the kind of GELU they do not. Those stand in
the ``open_clip_config.json`` that a release brings along; HPSv2 brings none, and is the one ViT-H/14 that needs none.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import CLIPConfig

from srpo.core.contracts.errors import InputError

BLOCKS = {"visual.transformer": "vision_model.encoder.layers", "transformer": "text_model.encoder.layers"}
IN_BLOCK = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
OUTSIDE = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "logit_scale": "logit_scale",
}
PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
VIT_H_14_WIDTH = 1280
VIT_H_14: dict[str, Any] = {"vision_cfg": {"head_width": 80}, "text_cfg": {"heads": 16}, "quick_gelu": False}
START_OF_TEXT, END_OF_TEXT = 49406, 49407


def to_transformers(weights: Mapping[str, Tensor], model_cfg: Mapping[str, Any] | None) -> Any:
    """The :class:`transformers.CLIPConfig` of ``weights``, which are under open_clip's names.

    Args:
        model_cfg: the ``model_cfg`` of an ``open_clip_config.json``; None for a ViT-H/14 without one (HPSv2).

    Raises:
        InputError: these are not the weights of an open_clip CLIP with two transformers, or ``model_cfg`` is needed.
    """
    try:
        patches, tokens = weights["visual.conv1.weight"], weights["token_embedding.weight"]
        places, context = weights["visual.positional_embedding"], weights["positional_embedding"]
        width, size = patches.shape[0], patches.shape[-1] * round((len(places) - 1) ** 0.5)
        if model_cfg is None:
            if width != VIT_H_14_WIDTH:
                raise InputError(
                    f"the image tower is {width} wide and no open_clip_config.json came with it: all but ViT-H/14 "
                    f"({VIT_H_14_WIDTH} wide) must bring one, since weights do not tell heads and kind of GELU"
                )
            model_cfg = VIT_H_14
        act = "quick_gelu" if model_cfg.get("quick_gelu", False) else "gelu"
        shared: dict[str, Any] = {"projection_dim": weights["text_projection"].shape[1], "hidden_act": act}
        return CLIPConfig(
            architectures=["CLIPModel"],
            projection_dim=shared["projection_dim"],
            vision_config={
                "hidden_size": width,
                "intermediate_size": len(weights["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
                "num_hidden_layers": _layers(weights, "visual.transformer"),
                "num_attention_heads": width // model_cfg["vision_cfg"].get("head_width", 64),
                "image_size": size,
                "patch_size": patches.shape[-1],
                **shared,
            },
            text_config={
                "vocab_size": len(tokens),
                "hidden_size": tokens.shape[1],
                "intermediate_size": len(weights["transformer.resblocks.0.mlp.c_fc.weight"]),
                "num_hidden_layers": _layers(weights, "transformer"),
                "num_attention_heads": model_cfg["text_cfg"]["heads"],
                "max_position_embeddings": len(context),
                "bos_token_id": START_OF_TEXT,
                "eos_token_id": END_OF_TEXT,  # the features are those at its first place
                "pad_token_id": END_OF_TEXT,
                **shared,
            },
        )
    except KeyError as error:
        raise InputError(f"the weights lack {error}: they must be those of an open_clip CLIP model") from None


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` under transformers' names: the fused query-key-value split, the projections turned.

    Raises:
        InputError: a weight that no CLIP of open_clip has.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name == "attn_mask":  # a constant that old checkpoints carry along
            continue
        if name in PROJECTIONS:
            found[PROJECTIONS[name]] = value.T.contiguous()
            continue
        block = re.fullmatch(r"((?:visual\.)?transformer)\.resblocks\.(\d+)\.(.+)\.(weight|bias)", name)
        fused = re.fullmatch(r"((?:visual\.)?transformer)\.resblocks\.(\d+)\.attn\.in_proj_(weight|bias)", name)
        if fused:
            prefix = f"{BLOCKS[fused[1]]}.{fused[2]}.self_attn"
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                found[f"{prefix}.{part}_proj.{fused[3]}"] = piece.contiguous()
        elif block and (block[3] in IN_BLOCK or block[3] == "attn.out_proj"):
            inside = IN_BLOCK.get(block[3], "self_attn.out_proj")
            found[f"{BLOCKS[block[1]]}.{block[2]}.{inside}.{block[4]}"] = value
        elif name in OUTSIDE:
            found[OUTSIDE[name]] = value
        elif name.rpartition(".")[0] in OUTSIDE:
            stem, _, kind = name.rpartition(".")
            found[f"{OUTSIDE[stem]}.{kind}"] = value
        else:
            raise InputError(
                f"the weights hold {name!r}, which an open_clip CLIP does not have: they are another model's"
            )
    return found


def _layers(weights: Mapping[str, Tensor], stack: str) -> int:
    return sum(name.startswith(f"{stack}.resblocks.") and name.endswith(".ln_1.weight") for name in weights)
