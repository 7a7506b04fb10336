"""safetensors files, one tensor at a time: a model of any size passes through the memory of its largest tensor.

The format is 8 bytes with the length of a JSON header, the header, and the tensors' bytes one after the other.
(The safetensors package writes only what is in memory as a whole, and its numpy face has no bfloat16.)
"""

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from srpo.core.contracts.errors import InputError
from srpo.core.storage.weights import weight_files

DTYPES: dict[str, Any] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 8
NUMBERS = 1 << 22  # of a matrix that are computed with at a time: in float32 and with what is between, 100 MB


class Spec(NamedTuple):
    """A tensor that a file will have: its name, dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * int(DTYPES[self.dtype].itemsize)


class TensorFolder:
    """The tensors of a folder's ``*.safetensors`` (shards), read when asked for."""

    def __init__(self, files: Iterable[Path]) -> None:
        self.places: dict[str, tuple[Path, Spec, int]] = {}
        for path in files:
            for spec, offset in read_header(path):
                self.places[spec.name] = (path, spec, offset)

    def spec(self, name: str) -> Spec:
        """Dtype and shape of a tensor."""
        return self.places[name][1]

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """A tensor, from the disk."""
        path, spec, offset = self.places[name]
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(spec.size)
        return np.frombuffer(data, DTYPES[spec.dtype]).reshape(spec.shape)


def is_finite(data: bytes, dtype: str) -> bool:
    """Whether all numbers in the bytes ``data`` of a tensor are finite; a few times as fast as a SHA-256 of them."""
    if dtype in ("BF16", "F16"):  # the exponent's bits alone tell, without a conversion
        exponent = 0x7F80 if dtype == "BF16" else 0x7C00
        return bool((np.frombuffer(data, np.uint16) & 0x7FFF).max(initial=0) < exponent)
    if dtype.startswith("F8"):
        return bool(np.isfinite(np.frombuffer(data, DTYPES[dtype]).astype(np.float32)).all())
    return not dtype.startswith("F") or bool(np.isfinite(np.frombuffer(data, DTYPES[dtype])).all())


def specs_of(folder: Path) -> list[Spec]:
    """The tensors of the model in ``folder``, from the headers of the files that its library opens.

    Raises:
        InputError: a file cannot be read, or a shard is missing.
    """
    return [spec for file in weight_files(folder) for spec, _ in read_header(file, whole=False)]


def in_rows(matrix: np.ndarray[Any, Any]) -> Iterator[slice]:
    """Its rows, some at a time: a copy in another dtype of a whole matrix of a big model is more than a pod has."""
    step = max(1, NUMBERS // max(1, matrix[0].size))
    for row in range(0, len(matrix), step):
        yield slice(row, row + step)


def read_header(path: Path, whole: bool = True) -> list[tuple[Spec, int]]:
    """Every tensor of a file with the offset of its bytes; ``whole``: the bytes must be there.

    Raises:
        InputError: it is no safetensors file, is cut, or has a dtype that cannot be converted.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        found = []
        for name, entry in header.items():
            if name != "__metadata__":
                spec = Spec(name, entry["dtype"], tuple(entry["shape"]))
                start, stop = entry["data_offsets"]
                if spec.dtype not in DTYPES:
                    raise ValueError(f"{name} is of dtype {spec.dtype}, not one of {', '.join(DTYPES)}")
                if whole and (stop - start != spec.size or 8 + length + stop > path.stat().st_size):
                    raise ValueError(f"{name} is cut")
                found.append((spec, 8 + length + start))
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from None


def header_of(specs: list[Spec]) -> tuple[bytes, list[int]]:
    """What a file of these tensors begins with, and where in the file the bytes of each begin."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offsets = [0]
    for spec in specs:
        place = [offsets[-1], offsets[-1] + spec.size]
        header[spec.name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": place}
        offsets.append(place[1])
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text)) % ALIGNMENT)
    start = struct.pack("<Q", len(text)) + text
    return start, [len(start) + offset for offset in offsets[:-1]]


def write_tensors(path: Path, specs: list[Spec], tensors: Iterable[np.ndarray[Any, Any]]) -> None:
    """Write ``tensors``, which come in the order of ``specs``, one after the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header_of(specs)[0])
        for spec, tensor in zip(specs, tensors, strict=True):
            if (NAMES[tensor.dtype], tensor.shape) != (spec.dtype, spec.shape):
                raise AssertionError(f"{spec.name} is {tensor.dtype} {tensor.shape}: it must be as its header says")
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
