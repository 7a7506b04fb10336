"""How much memory a run needs on each device: an estimate made before any weight is loaded."""

import json
import struct
from pathlib import Path

import torch

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import readable_size
from srpo.train.config import Config

BYTES = {"float32": 4, "bfloat16": 2}


def parameter_count(folder: Path) -> int:
    """Numbers in all safetensors of a folder, from their headers alone."""
    total = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                size = 1
                for axis in tensor["shape"]:
                    size *= axis
                total += size
    return total


def estimate_bytes(config: Config, parameters: int, ranks: int) -> int:
    """Bytes a rank for weights, gradients and moments; activations and rewards come on top.

    Gathered weights in the compute dtype stand whole on each rank; masters, gradients (float32) and moments are
    sharded.
    """
    compute = BYTES[config.compute_dtype]
    gathered = parameters * compute
    if config.lora_rank:  # the frozen base is kept in the compute dtype; the adapter is small beside it
        return gathered + parameters * compute // ranks
    masters, gradients, moments, average = 4, 4, 8, 4 if config.ema_decay else 0
    return gathered + parameters * (masters + gradients + moments + average) // ranks


def check_memory(config: Config, base: Path, ranks: int, device: torch.device) -> None:
    """Refuse a run whose weights and moments alone exceed the device's free memory.

    Raises:
        InputError: names both figures and the settings that lower the need.
    """
    need = estimate_bytes(config, parameter_count(base / "transformer"), ranks)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _available() // ranks
    if need > free:
        raise InputError(
            f"training needs at least {readable_size(need)} a process for weights, gradients and moments, "
            f"{readable_size(free)} are free: use more processes, or lora_rank"
        )


def _available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**63
