"""Released rewards to the one form that a run loads: a folder with configuration, safetensors and tokenizer.

========== ============================================================ =========================================
kind       ``files`` (by name in the folder, but for the weights)       becomes
========== ============================================================ =========================================
clip       a transformers CLIP or SigLIP folder, file by file           the same, weights as safetensors
open_clip  ``weights``, open_clip_config.json, tokenizer                a transformers CLIP
hpsv2      ``weights``, tokenizer                                       a transformers CLIP that pads its images
========== ============================================================ =========================================

A tokenizer is ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``; other files of it are taken along. Weights are
safetensors or `.pt` files, from which nothing but tensors is read.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, CLIPTokenizer

from srpo.core.contracts.errors import InputError, require
from srpo.core.rewards.checkpoints import read_checkpoint
from srpo.core.rewards.open_clip import check_complete, renamed, to_transformers
from srpo.core.storage.files import appearing, link_tree, write_json

WEIGHTS = "model.safetensors"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FIT = {"shortest": "crop", "longest": "pad", "squash": "squash"}  # open_clip's resize modes


def convert_reward(kind: str, files: dict[str, Path], folder: Path) -> None:
    """Make the reward folder ``folder`` of the released files of a reward; it appears whole or not at all.

    Args:
        kind: how the files are laid out; see the table above.
        files: the files by name: ``weights`` is what its key says, any other key is a file's name.
        folder: must not exist, or be empty.

    Raises:
        InputError: an unknown kind, a file missing or not what it should be, weights of another model.
    """
    require(kind in CONVERSIONS, "kind of reward", kind, f"one of {', '.join(sorted(CONVERSIONS))}")
    with appearing(folder) as partial:
        partial.mkdir(parents=True)
        CONVERSIONS[kind](files, partial)


def _clip(files: dict[str, Path], folder: Path) -> None:
    config = _read_json(files, "config.json")
    require(config.get("model_type") in ("clip", "siglip"), "model_type", config.get("model_type"), "clip or siglip")
    _read_json(files, "preprocessor_config.json")
    for name in files:
        if Path(name).suffix not in (".bin", ".pt"):
            link_tree(_there(files, name), folder / name)
    if not any(path.suffix == ".safetensors" for path in folder.iterdir()):
        bins = [path for name, path in files.items() if Path(name).suffix in (".bin", ".pt")]
        require(len(bins) == 1, "weights", [path.name for path in bins], "one model.safetensors or pytorch_model.bin")
        _save(read_checkpoint(bins[0]), folder)
    _check_tokenizer(folder)


def _open_clip(files: dict[str, Path], folder: Path) -> None:
    release = _read_json(files, "open_clip_config.json") if "open_clip_config.json" in files else {}
    weights = read_checkpoint(_there(files, "weights"))
    config = to_transformers(weights, release.get("model_cfg"))
    weights = renamed(weights)
    check_complete(config, weights)
    _save(weights, folder)
    config.save_pretrained(folder)
    given = release.get("preprocess_cfg", {})
    fit = FIT[given.get("resize_mode") or "shortest"]
    _write_preprocessing(folder, config.vision_config.image_size, given.get("mean"), given.get("std"), fit)
    _write_tokenizer(files, folder, config.text_config.max_position_embeddings)


def _hpsv2(files: dict[str, Path], folder: Path) -> None:
    """As open_clip, but HPSv2 scales the longer side and pads with black."""
    _open_clip(files, folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    write_json(folder / "preprocessor_config.json", settings | {"fit": "pad"})


CONVERSIONS = {"clip": _clip, "open_clip": _open_clip, "hpsv2": _hpsv2}


def _there(files: dict[str, Path], name: str) -> Path:
    """The file ``name``; raises :class:`InputError` when it is not among the given ones."""
    if name not in files or not files[name].is_file():
        raise InputError(f"the reward's files are {', '.join(sorted(files))}: {name!r} must be among them")
    return files[name]


def _read_json(files: dict[str, Path], name: str) -> dict[str, Any]:
    path = _there(files, name)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{str(path)!r} holds a {type(value).__name__}: it must be a JSON object")
    return value


def _save(weights: dict[str, Tensor], folder: Path) -> None:
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / WEIGHTS, {"format": "pt"})


def _write_preprocessing(folder: Path, size: int, mean: Any, std: Any, fit: str) -> None:
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "fit": fit,
        "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size},
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "rescale_factor": 1 / 255,
        "resample": 3,  # bicubic
        "image_mean": list(mean or CLIP_MEAN),
        "image_std": list(std or CLIP_STD),
    }
    write_json(folder / "preprocessor_config.json", settings)


def _write_tokenizer(files: dict[str, Path], folder: Path, length: int) -> None:
    names = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "special_tokens_map.json")
    for name in names:
        if name in files:
            link_tree(_there(files, name), folder / name)
    if "tokenizer.json" not in files:
        for name in ("vocab.json", "merges.txt"):
            _there(files, name)
        CLIPTokenizer.from_pretrained(folder, model_max_length=length).save_pretrained(folder)
    _check_tokenizer(folder)


def _check_tokenizer(folder: Path) -> None:
    try:
        AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise InputError(f"the reward's tokenizer cannot be loaded: {str(error).splitlines()[0]}") from None
