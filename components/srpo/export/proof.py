"""Before weights are published: each tensor is read once more and must be what the run says it is. Needs no torch.

One tensor is in memory at a time, so a model of any size passes. The files' hashes say that the bytes are those that
the training wrote; here is looked at what they mean to a reader.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from srpo.core.contracts.errors import InputError
from srpo.core.storage.tensor_files import TensorFolder, in_rows

BF16 = np.dtype(ml_dtypes.bfloat16)
EXPONENT = np.uint16(0x7F80)  # the bits of bfloat16's exponent
# float32 sums in another order round otherwise now and then, to the next number of bfloat16; any other scale or any
# other adapter does so in far more places.
ROUNDED_OTHERWISE = 0.01


def check_transformer(base: list[Path], tuned: list[Path], index: Path | None = None) -> None:
    """Every tensor of the tuned transformer has the name and the shape of the base's, is in bfloat16, and finite.

    ``index`` is the file that says which shard holds which tensor, where there is one.

    Raises:
        InputError: it is not so; the tensor is named.
    """
    before, after = TensorFolder(base), TensorFolder(tuned)
    if different := sorted(set(before.places) ^ set(after.places)):
        word = "lacks" if different[0] in before.places else "has"
        raise InputError(f"the tuned transformer {word} {different[0]!r}: it must have the tensors of its base")
    for name in after.places:
        spec, shape = after.spec(name), before.spec(name).shape
        kept = before.spec(name).dtype
        wanted = "BF16" if "F" in kept else kept  # whole numbers go on as they are
        if (spec.dtype, spec.shape) != (wanted, shape):
            raise InputError(f"{name!r} is {spec.dtype} {spec.shape}: it must be {wanted} {shape}")
        if wanted == "BF16" and np.any(after.read(name).view(np.uint16) & EXPONENT == EXPONENT):
            raise InputError(f"{name!r} of the checkpoint is infinite or no number: every weight must be finite")
    if index is not None:
        named = _weight_map(index)
        found = {name: place[0].name for name, place in after.places.items()}
        if wrong := sorted(name for name in named.keys() | found.keys() if named.get(name) != found.get(name)):
            raise InputError(
                f"{index} puts {wrong[0]!r} into {named.get(wrong[0])!r}: it must say {found.get(wrong[0])!r}"
            )


def check_adapter(base: list[Path], tuned: list[Path], adapter: Path, compute: str) -> None:
    """Base plus adapter is the tuned transformer: ``base + B A``, rounded to bfloat16; without an adapter, the base.

    So whoever loads the adapter over the base, with the scale 1, has the model that was evaluated.

    Args:
        base: the base transformer's files.
        tuned: those of the tuned one.
        adapter: the LoRA as it is released.
        compute: the dtype in which the training held the base (``bfloat16``, ...).

    Raises:
        InputError: it is not so; the tensor is named.
    """
    before, after, low = TensorFolder(base), TensorFolder(tuned), TensorFolder([adapter])
    parts = {name.removeprefix("transformer.") for name in low.places}
    adapted = {name.removesuffix(".lora_A.weight") for name in parts if name.endswith(".lora_A.weight")}
    wanted = {f"{module}.lora_{side}.weight" for module in adapted for side in "AB"}
    if strange := sorted(parts ^ wanted) or sorted(adapted - {name.removesuffix(".weight") for name in after.places}):
        raise InputError(
            f"{adapter} and the transformer do not fit at {strange[0]!r}: each module must have an A and a B"
        )
    for name in after.places:
        module = name.removesuffix(".weight")
        start, found = before.read(name), after.read(name)
        if module in adapted and name.endswith(".weight"):
            a, b = (low.read(f"transformer.{module}.lora_{side}.weight") for side in "AB")
            if b.shape[0] != found.shape[0] or a.shape[1] != found.shape[1] or a.shape[0] != b.shape[1]:
                raise InputError(f"{adapter}: {module} has A {a.shape} and B {b.shape}: it must fit {found.shape}")
            same = _is_sum(start.astype(BF16) if compute == "bfloat16" else start, a, b, found)
        elif found.dtype != BF16:
            same = np.array_equal(start, found)
        else:
            same = np.array_equal(start.astype(BF16).view(np.uint16), found.view(np.uint16))
        if not same:
            raise InputError(f"{name!r}: base and adapter make another matrix than the tuned one: it must be their sum")


def _is_sum(start: Any, a: Any, b: Any, found: Any) -> bool:
    other = 0
    for rows in in_rows(found):
        total = start[rows].astype(np.float32) + b[rows].astype(np.float32) @ a.astype(np.float32)
        expected, here = total.astype(BF16), found[rows]
        other += int(np.count_nonzero(expected.view(np.uint16) != here.view(np.uint16)))
        # One number further in bfloat16 is at most 2^-7 of the value.
        near = np.abs(here.astype(np.float32) - total) <= np.abs(total) * 2.0**-7 + 2.0**-126
        if not np.all(near):
            return False
    return bool(other <= max(1, ROUNDED_OTHERWISE * found.size))


def _weight_map(index: Path) -> Mapping[str, str]:
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return dict(named)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index} cannot be read as an index of shards: {error!r}") from None
