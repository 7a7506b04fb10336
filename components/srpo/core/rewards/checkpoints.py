"""Released weights from disk: safetensors, or `.pt` files from which nothing but tensors is taken."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from srpo.core.contracts.errors import InputError, require


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a released weight file, by name: a safetensors file, or a `.pt`/`.pth`/`.bin` one.

    A checkpoint that keeps its weights under ``state_dict`` is unwrapped, and the prefix ``module.`` of weights that
    were saved from a distributed wrapper removed. Code in the file is never run.

    Raises:
        InputError: the file is missing, is no checkpoint (an HTML error page, a cut download), carries code, or holds
            something else than tensors.
    """
    if not path.is_file():
        raise InputError(f"weights {str(path)!r} are not there: it must be a .safetensors or .pt file")
    values = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    inner = values.get("state_dict", values)
    if not isinstance(inner, Mapping) or not all(isinstance(value, Tensor) for value in inner.values()):
        kinds = sorted({type(value).__name__ for value in getattr(inner, "values", dict)()})
        raise InputError(f"weights {str(path)!r} hold {', '.join(kinds) or 'nothing'}: they must be named tensors")
    if inner and all(str(name).startswith("module.") for name in inner):
        inner = {str(name).removeprefix("module."): value for name, value in inner.items()}
    return {str(name): value for name, value in inner.items()}


def check_complete(make: Callable[[], Any], weights: Mapping[str, Tensor]) -> None:
    """Refuse ``weights`` whose names or shapes are not exactly those of the model that ``make`` makes."""
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise InputError(f"weight {name!r} has shape {given.get(name)}: it must be {wanted.get(name)}")


def load_pretrained(kind: Any, folder: Path, device: torch.device, dtype: torch.dtype, **options: Any) -> Any:
    """A model of the transformers class ``kind`` for use without training; reads of the file only what it has.

    Raises:
        InputError: the folder lacks weights that the model needs (transformers would make them up), or ``dtype`` is
            neither float32 nor bfloat16: float16 has gradients that underflow without a loss scaler.
    """
    require(dtype in (torch.float32, torch.bfloat16), "reward dtype", str(dtype), "float32 or bfloat16")
    model, found = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    missing = sorted(found["missing_keys"])
    if missing:
        raise InputError(f"reward folder {str(folder)!r} lacks {missing[0]!r} and {len(missing) - 1} weights more")
    return model.to(device).eval().requires_grad_(False)


def _safetensors(path: Path) -> Mapping[str, object]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {str(path)!r} cannot be read as safetensors: {error}") from None


def _pickled(path: Path) -> Mapping[str, object]:
    try:
        # Memory-mapped where the format allows it, so that a file of 4 GB is not held twice.
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # torch raises nearly anything for a file that is not its own
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        fault = f"carry code, which is never run ({code[1]})" if code else "are no checkpoint of torch, or are cut"
        raise InputError(f"weights {str(path)!r} {fault}: they must be a file of named tensors") from None
    if not isinstance(values, Mapping):
        raise InputError(f"weights {str(path)!r} hold a {type(values).__name__}: they must be named tensors")
    return values


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"
