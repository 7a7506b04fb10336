"""Released rewards to the one form that a run loads: a folder with configuration, safetensors and tokenizer.

============ ================================================== ===================================================
kind         ``files``, by their names but for the weights      becomes
============ ================================================== ===================================================
clip         a transformers CLIP or SigLIP folder, every file   the same, weights as safetensors
open_clip    ``weights``, open_clip_config.json, a tokenizer    a transformers CLIP
hpsv2        ``weights``, a tokenizer                           a transformers CLIP that pads its images
aesthetic    ``head``, and a transformers CLIP L/14 folder      CLIP's image tower and the head; no text
image_reward ``weights``, a BERT tokenizer, med_config.json     BLIP's two encoders and the head
============ ================================================== ===================================================

A tokenizer is ``tokenizer.json``, or ``vocab.json`` and ``merges.txt`` (BERT's: ``vocab.txt``); its other files are
taken along. Weights are
safetensors or `.pt` files, from which nothing but tensors is read.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from srpo.core.contracts.errors import InputError, require
from srpo.core.rewards.blip import text_model, vision_model
from srpo.core.rewards.checkpoints import check_complete, read_checkpoint
from srpo.core.rewards.heads import head_weights
from srpo.core.rewards.open_clip import renamed, to_transformers
from srpo.core.storage.files import appearing, link_tree, write_json

WEIGHTS, HEAD = "model.safetensors", "head.safetensors"
# ImageReward's own constants: how many tokens it reads, and its grades' mean and deviation over its training images.
IMAGE_REWARD: dict[str, Any] = {
    "text_length": 35,
    "score_mean": 0.16717362830052426,
    "score_deviation": 1.0333394966054072,
}
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FIT = {"shortest": "crop", "longest": "pad", "squash": "squash"}  # open_clip's resize modes


def convert_reward(kind: str, files: dict[str, Path], folder: Path) -> None:
    """Make the reward folder ``folder`` of the released files of a reward; it appears whole or not at all.

    Args:
        kind: how the files are laid out; see the table above.
        files: the files by name: ``weights`` and ``head`` are what they say, any other key is a file's name.
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
    check_complete(lambda: CLIPModel(config), weights)
    _save(weights, folder)
    config.save_pretrained(folder)
    given = release.get("preprocess_cfg", {})
    fit = FIT[given.get("resize_mode") or "shortest"]
    _write_preprocessing(folder, config.vision_config.image_size, given.get("mean"), given.get("std"), fit)
    _write_tokenizer(
        files, folder, CLIPTokenizer, ("vocab.json", "merges.txt"), config.text_config.max_position_embeddings
    )


def _hpsv2(files: dict[str, Path], folder: Path) -> None:
    """As open_clip, but HPSv2 scales the longer side and pads with black."""
    _open_clip(files, folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    write_json(folder / "preprocessor_config.json", settings | {"fit": "pad"})


def _aesthetic(files: dict[str, Path], folder: Path) -> None:
    head = head_weights(read_checkpoint(_there(files, "head")))
    stated = _read_json(files, "config.json")
    require(stated.get("model_type") == "clip", "model_type", stated.get("model_type"), "clip: its features are graded")
    vision: Any = CLIPConfig(**stated).vision_config
    config: dict[str, Any] = vision.to_dict() | {
        "projection_dim": stated["projection_dim"],
        "model_type": "aesthetic",
    }
    own = [name for name in files if Path(name).stem in ("model", "pytorch_model") and Path(name).suffix != ".json"]
    require(len(own) == 1, "weights of CLIP", own, "one model.safetensors or pytorch_model.bin")
    weights = read_checkpoint(files[own[0]])
    tower = {name: value for name, value in weights.items() if name.startswith(("vision_model.", "visual_projection."))}
    tower = {name: value for name, value in tower.items() if "position_ids" not in name}
    check_complete(lambda: CLIPVisionModelWithProjection(CLIPVisionConfig(**config)), tower)
    if head["0.weight"].shape[1] != config["projection_dim"]:
        width, found = config["projection_dim"], head["0.weight"].shape[1]
        raise InputError(f"the head takes {found} numbers: they must be the {width} of CLIP's image feature")
    _save(tower, folder)
    _save(head, folder, HEAD)
    write_json(folder / "config.json", config)
    _read_json(files, "preprocessor_config.json")
    link_tree(files["preprocessor_config.json"], folder / "preprocessor_config.json")


def _image_reward(files: dict[str, Path], folder: Path) -> None:
    weights = read_checkpoint(_there(files, "weights"))
    for name, (config, own) in (
        ("vision", vision_model(weights)),
        ("text", text_model(weights, _read_json(files, "med_config.json") if "med_config.json" in files else {})),
    ):
        (folder / name).mkdir()
        config.save_pretrained(folder / name)
        _save(own, folder / name)
        if name == "vision":
            _write_preprocessing(folder, config.image_size, None, None, "crop")
    _save(head_weights(weights, "mlp.layers"), folder, HEAD)
    _write_tokenizer(files, folder, BertTokenizer, ("vocab.txt",), IMAGE_REWARD["text_length"])
    write_json(folder / "config.json", {"model_type": "image_reward", **IMAGE_REWARD})


CONVERSIONS = {
    "clip": _clip,
    "open_clip": _open_clip,
    "hpsv2": _hpsv2,
    "aesthetic": _aesthetic,
    "image_reward": _image_reward,
}


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


def _save(weights: dict[str, Tensor], folder: Path, name: str = WEIGHTS) -> None:
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / name, {"format": "pt"})
    (folder / name).chmod(0o644)  # safetensors lets its owner alone read it: a cache is shared


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


def _write_tokenizer(files: dict[str, Path], folder: Path, kind: Any, vocabulary: tuple[str, ...], length: int) -> None:
    """Take the tokenizer's files; without tokenizer.json, make it of those of the ``vocabulary``."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", *vocabulary):
        if name in files:
            link_tree(_there(files, name), folder / name)
    if "tokenizer.json" not in files:
        for name in vocabulary:
            _there(files, name)
        kind.from_pretrained(folder, model_max_length=length).save_pretrained(folder)
    _check_tokenizer(folder)


def _check_tokenizer(folder: Path) -> None:
    try:
        AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise InputError(f"the reward's tokenizer cannot be loaded: {str(error).splitlines()[0]}") from None
