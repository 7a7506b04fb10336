"""FLUX's original layout in one file, which ComfyUI and the original code read: bfloat16, or fp8 with scales.

The tensors are those of the diffusers transformer under other names: query, key and value of a block are one matrix
(in single blocks with the MLP's input), and the last modulation has shift before scale. Nothing is computed for
bfloat16, so the file is checked bit by bit against its source, one tensor at a time.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from srpo.core.backbones.flux_layout import Target, layout_of
from srpo.core.contracts.errors import InputError
from srpo.core.storage.tensor_files import Spec, TensorFolder, in_rows, write_tensors

BF16 = np.dtype(ml_dtypes.bfloat16)
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
FP8_MOST = 448.0
EXPONENT = np.uint16(0x7F80)  # the bits of bfloat16's exponent
# What ComfyUI looks for in a file with scales; two elements ask it to multiply in the compute dtype.
FP8_MARKER = "scaled_fp8"
LARGEST_ERROR = 1 / 16  # of a value under fp8's 3 bits of mantissa, relative; below the smallest normal value, of that


def write_original(files: list[Path], config: dict[str, Any], path: Path, fp8: bool) -> None:
    """Write the transformer in ``files`` (diffusers safetensors) to ``path`` in the original layout, and check it.

    Memory: a few of the largest tensor. With ``fp8`` the matrices of the blocks are e4m3 with one float32 scale each.

    Raises:
        InputError: it is no FLUX.1 transformer, or a weight is not finite.
    """
    source = TensorFolder(files)
    targets = layout_of(config, source.places)
    specs = []
    for target in targets:
        shape = _shape(source, target)
        quantised = fp8 and _is_quantised(target)
        specs.append(Spec(target.name, "F8_E4M3" if quantised else "BF16", shape))
        if quantised:
            specs.append(Spec(_scale_name(target), "F32", ()))
    if fp8:
        specs.append(Spec(FP8_MARKER, "F8_E4M3", (2,)))
    write_tensors(path, specs, _tensors(source, targets, fp8))
    check_original(path, source, targets)


def check_original(path: Path, source: TensorFolder, targets: list[Target]) -> None:
    """Read the file again and hold every tensor against its source: bit by bit, or within fp8's rounding.

    Raises:
        OSError: a tensor differs; the disk or the memory is at fault.
    """
    written = TensorFolder([path])
    for target in targets:
        expected, found = _bfloat16(source, target), written.read(target.name)
        if found.dtype == BF16:
            same = np.array_equal(found.view(np.uint16), expected.view(np.uint16))
        else:
            scale = float(written.read(_scale_name(target)))
            same = all(_is_rounded(found[rows], scale, expected[rows]) for rows in in_rows(found))
        if not same:
            raise OSError(f"{path}: {target.name} is not what was to be written: the disk or the memory is at fault")


def _is_rounded(found: np.ndarray[Any, Any], scale: float, expected: np.ndarray[Any, Any]) -> bool:
    value = expected.astype(np.float32)
    bound = np.maximum(np.abs(value), scale * 2.0**-6) * LARGEST_ERROR
    return bool(np.all(np.abs(found.astype(np.float32) * scale - value) <= bound * 1.001))


def _tensors(source: TensorFolder, targets: list[Target], fp8: bool) -> Iterator[np.ndarray[Any, Any]]:
    for target in targets:
        tensor = _bfloat16(source, target)
        if fp8 and _is_quantised(target):
            most = max(float(np.abs(tensor[rows].astype(np.float32)).max()) for rows in in_rows(tensor))
            scale = np.float32(max(most / FP8_MOST, 1e-12))
            small = np.empty(tensor.shape, FP8)
            for rows in in_rows(tensor):
                small[rows] = np.clip(tensor[rows].astype(np.float32) / scale, -FP8_MOST, FP8_MOST).astype(FP8)
            yield small
            yield np.array(scale, dtype=np.float32)
        else:
            yield tensor
    if fp8:
        yield np.zeros(2, dtype=FP8)


def _bfloat16(source: TensorFolder, target: Target) -> np.ndarray[Any, Any]:
    tensor = np.concatenate([source.read(name).astype(BF16, copy=False) for name in target.sources])
    if target.swapped:
        tensor = np.concatenate(np.split(tensor, 2)[::-1])
    if np.any(tensor.view(np.uint16) & EXPONENT == EXPONENT):  # infinite, or no number
        raise InputError(f"{' and '.join(target.sources)} of the checkpoint: every weight must be finite")
    return tensor


def _shape(source: TensorFolder, target: Target) -> tuple[int, ...]:
    shapes = [source.spec(name).shape for name in target.sources]
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


def _is_quantised(target: Target) -> bool:
    """The matrices inside of blocks, which are nearly all of the weights; the rest is small and sensitive."""
    return target.name.startswith(("double_blocks.", "single_blocks.")) and target.name.endswith(".weight")


def _scale_name(target: Target) -> str:
    return target.name.removesuffix("weight") + "scale_weight"
