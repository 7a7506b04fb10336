"""What a folder of a diffusers pipeline holds: its class, its parts, the image sizes that it takes. Needs no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError, require

COMMON = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
PARTS = {
    "FluxPipeline": (*COMMON, "text_encoder_2", "tokenizer_2"),
    "QwenImagePipeline": COMMON,
}
# Inputs of some QwenImage transformers that a text-to-image pipeline does not give.
UNSUPPORTED = ("guidance_embeds", "use_additional_t_cond")


def check_folder(folder: Path) -> str:
    """The pipeline class of ``folder``, which must be a whole pipeline of a class that there is a backbone for.

    Raises:
        InputError: the folder or one of its parts is missing, its class is another one, or the transformer is a
            variant that the backbone does not support.
    """
    if not folder.is_dir():
        raise InputError(f"model folder {str(folder)!r} does not exist: it must be a diffusers pipeline folder")
    _check_parts(folder, COMMON)
    name = _read(folder / "model_index.json").get("_class_name")
    accepted = " or ".join(map(repr, PARTS))
    if name not in PARTS:
        raise InputError(f"model folder {str(folder)!r} holds a {name!r}: it must be a {accepted}")
    _check_parts(folder, PARTS[name])
    if name == "QwenImagePipeline":
        transformer = _read(folder / "transformer" / "config.json")
        for setting in UNSUPPORTED:
            value = transformer.get(setting, False)
            require(not value, f"{setting} of the transformer in {str(folder)!r}", value, "false for QwenImagePipeline")
    return str(name)


def vae_scale(config: Mapping[str, Any]) -> int:
    """By how much a VAE of this configuration shrinks height and width."""
    if "temperal_downsample" in config:  # diffusers' spelling; an entry for each halving of the size
        return 2 ** len(config["temperal_downsample"])
    return int(2 ** (len(config["block_out_channels"]) - 1))


def latent_unit(folder: Path) -> int:
    """What height and width of an image must be a multiple of: two latents make one token."""
    return 2 * vae_scale(_read(folder / "vae" / "config.json"))


def _check_parts(folder: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        if not (folder / part).is_dir():
            accepted = f"a pipeline folder with model_index.json, {', '.join(parts)}"
            raise InputError(f"model folder {str(folder)!r} has no {part!r}: it must be {accepted}")


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise InputError(f"model folder {str(file.parent)!r} has no readable {file.name}") from None
