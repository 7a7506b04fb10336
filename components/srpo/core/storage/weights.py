"""Which files of a model folder hold its weights: those that diffusers or transformers would open, by their own rules.

A folder as it is found may hold more: shards beside a stale single file, a `.fp16` variant, the same model in another
layout. Whoever reads, counts or keeps weights asks here, so that all of them mean the same numbers. Needs no torch.

Rules (diffusers' ``ModelMixin.from_pretrained``, transformers' ``_get_resolved_checkpoint_files``): diffusers takes the
shards that an index names, or else the single file; transformers takes the single file, or else the shards.
"""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.storage.walk import files_below

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model", "model"  # how their files of weights begin
SUFFIX, INDEX = ".safetensors", ".safetensors.index.json"
VARIANT_INDEX = re.compile(r"(?P<stem>[a-z_]+)\.safetensors\.index\.(?P<name>\w+)\.json")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that the library of the model in ``folder`` opens, sorted; [] where there are none.

    Raises:
        InputError: an index cannot be read, or a shard that it names is missing.
    """
    stem = _stem(folder)
    index, single = folder / f"{stem}{INDEX}", folder / f"{stem}{SUFFIX}"
    if single.is_file() and (stem == TRANSFORMERS or not index.is_file()):
        return [single]
    return shards(index) if index.is_file() else []


def shards(index: Path) -> list[Path]:
    """The files that an index names, sorted.

    Raises:
        InputError: it cannot be read, names a file elsewhere, or one that is missing.
    """
    try:
        named = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{index} cannot be read as an index of shards: {error!r}") from None
    for name in named:
        if not isinstance(name, str) or PurePosixPath(name).name != name or "\0" in name:
            raise InputError(f"{index} names the shard {name!r}: it must be the name of a file beside it")
        if not (index.parent / name).is_file():
            raise InputError(f"{index} names the shard {name!r}, which is missing: it must lie beside the index")
    return [index.parent / name for name in named]


def is_pipeline(folder: Path) -> bool:
    """Whether the folder is a pipeline of several models."""
    return (folder / "model_index.json").is_file()


def components(folder: Path) -> list[str]:
    """The parts that a pipeline's ``model_index.json`` names, without those that it says are not there.

    Raises:
        InputError: it cannot be read.
    """
    try:
        index: dict[str, Any] = dict(json.loads((folder / "model_index.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise InputError(f"model folder {str(folder)!r} has no readable model_index.json") from None
    return [name for name, value in index.items() if isinstance(value, list) and any(value)]


def model_folders(folder: Path) -> list[Path]:
    """The folders of ``folder`` that hold weights of their own: a pipeline's parts that are models, or itself."""
    if not is_pipeline(folder):
        return [folder]
    return [folder / name for name in components(folder) if _is_model(folder / name)]


def incomplete(folder: Path) -> list[str]:
    """What a model in ``folder`` lacks to be loaded, in words: parts, weights, shards; [] when it is whole."""
    wrong = []
    try:
        if is_pipeline(folder):
            wrong += [f"{name} (missing)" for name in components(folder) if not (folder / name).is_dir()]
        wrong += [
            f"{part.relative_to(folder).as_posix()} (no weights{_instead(part)})"
            for part in model_folders(folder)
            if not weight_files(part) and (part / "config.json").is_file()
        ]
    except InputError as error:
        wrong.append(str(error))
    return wrong


def _instead(part: Path) -> str:
    """What a folder without weights has in their place, where that is a common mistake."""
    for path in sorted(part.iterdir()):
        if path.suffix == SUFFIX or VARIANT_INDEX.fullmatch(path.name):
            return (
                f"; {path.name} is another form of them: they must be {_stem(part)}{SUFFIX} or shards with their index"
            )
        if path.suffix in (".gguf", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".onnx"):
            return f"; {path.name} is not read: they must be {_stem(part)}{SUFFIX} or shards with their index"
    return ""


def unread(folder: Path) -> set[str]:
    """Names, relative to ``folder``, of its safetensors and indexes that nothing opens.

    In a pipeline that is all but the weights of its parts. Beside a single model it is what bears its library's names:
    a reward keeps a head of its own there.

    Raises:
        InputError: an index cannot be read, or names a shard that is missing.
    """
    wanted: set[Path] = set()
    for part in model_folders(folder):
        opened = weight_files(part)
        wanted |= set(opened)
        index = part / f"{_stem(part)}{INDEX}"
        if opened and opened != [part / f"{_stem(part)}{SUFFIX}"]:
            wanted.add(index)
    pipeline = is_pipeline(folder)
    own = re.compile(rf"{_stem(folder)}[.-].*")
    return {
        path.relative_to(folder).as_posix()
        for path in files_below(folder, hidden=False)
        if (path.name.endswith((SUFFIX, INDEX)) or VARIANT_INDEX.fullmatch(path.name))
        and path not in wanted
        and (pipeline or (path.parent == folder and own.fullmatch(path.name)))
    }


def _is_model(part: Path) -> bool:
    """A tokenizer and a scheduler have no weights; a model's settings are its ``config.json``."""
    return (part / "config.json").is_file()


def _stem(folder: Path) -> str:
    """How the files of the model's library begin: diffusers writes its class into the settings."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "_class_name" in settings:
            return DIFFUSERS
        if "model_type" in settings or "architectures" in settings:
            return TRANSFORMERS
    except (OSError, ValueError, TypeError, RecursionError):
        pass
    ours = (f"{DIFFUSERS}{SUFFIX}", f"{DIFFUSERS}{INDEX}")
    return DIFFUSERS if any((folder / name).is_file() for name in ours) else TRANSFORMERS
