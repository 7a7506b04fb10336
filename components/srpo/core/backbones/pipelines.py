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
FLUX_TOKENS, SCHNELL_TOKENS = 512, 256  # T5 tokens that a prompt is padded or cut to
QWEN_TOKENS = 512
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


def check_guidance(folder: Path, true_guidance: float) -> None:
    """Refuse true guidance beside a guidance that is true itself."""
    if check_folder(folder) == "QwenImagePipeline":
        require(true_guidance <= 1, "true_guidance", true_guidance, "1 for Qwen-Image: its `guidance` is true")


def vae_scale(config: Mapping[str, Any]) -> int:
    """By how much a VAE of this configuration shrinks height and width."""
    if "temperal_downsample" in config:  # diffusers' spelling; an entry for each halving of the size
        return 2 ** len(config["temperal_downsample"])
    return int(2 ** (len(config["block_out_channels"]) - 1))


def latent_unit(folder: Path) -> int:
    """What height and width of an image must be a multiple of: two latents make one token."""
    return 2 * vae_scale(_read(folder / "vae" / "config.json"))


def text_tokens(folder: Path, wanted: int = 0) -> int:
    """How many states the text encoder gives a prompt: ``wanted``, or what the model was trained with when that is 0.

    For FLUX.1-schnell, which is the one without embedded guidance, that is 256, else 512; a tokenizer may say less.

    Raises:
        InputError: more than the model takes, or any other number for Qwen-Image, whose template has its own.
    """
    if check_folder(folder) == "QwenImagePipeline":
        require(wanted in (0, QWEN_TOKENS), "max_sequence_length", wanted, f"0 or {QWEN_TOKENS} for QwenImagePipeline")
        return QWEN_TOKENS
    schnell = not _read(folder / "transformer" / "config.json").get("guidance_embeds", False)
    tokenizer = _read(folder / "tokenizer_2" / "tokenizer_config.json")
    most = min(FLUX_TOKENS, int(tokenizer.get("model_max_length") or FLUX_TOKENS))
    require(0 <= wanted <= most, "max_sequence_length", wanted, f"at most {most} for the model in {str(folder)!r}")
    return wanted or min(most, SCHNELL_TOKENS if schnell else FLUX_TOKENS)


def text_shapes(folder: Path, tokens: int) -> tuple[tuple[int, int], tuple[int]]:
    """Shapes of a prompt's embeddings (states, pooled), from the configuration files alone."""
    config = _read(folder / "text_encoder" / "config.json")
    if check_folder(folder) == "QwenImagePipeline":
        return (tokens, int(config.get("text_config", config)["hidden_size"])), (tokens,)
    width = _read(folder / "text_encoder_2" / "config.json")["d_model"]
    return (tokens, int(width)), (int(config["hidden_size"]),)


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
