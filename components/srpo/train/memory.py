"""How much memory a run needs on each device: an estimate made before any weight is loaded."""

import dataclasses
import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import readable_size
from srpo.train.config import Config
from srpo.train.quantised import is_quantised

BYTES = {"float32": 4, "bfloat16": 2}
# What autograd keeps, in numbers: counted on diffusers' FLUX.1 and its VAE and on a CLIP ViT-H/14 (docs/training.md).
IN_A_BLOCK = 120  # for each token and channel of a transformer block whose activations are kept
AT_A_BLOCK = 1.2  # for each token and channel of a checkpointed one
IN_THE_DECODER = 47  # for each pixel and each of its channels at full size
IN_A_REWARD = 80  # for each token, channel and layer
TEXT_TOKENS = 512


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where the weights of a run lie."""

    base: Path
    rewards: list[Path]
    held_out: Path


def tensor_shapes(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of the tensors in all safetensors of a folder, from their headers alone."""
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                yield name, tensor["shape"]


def parameter_count(folder: Path, part: str = "") -> int:
    """Numbers in all safetensors of a folder, in those tensors whose name holds ``part``."""
    return sum(math.prod(shape) for name, shape in tensor_shapes(folder) if part in name)


def adapter_count(config: Config, folder: Path) -> int:
    """Numbers of a LoRA adapter on the transformer in ``folder``."""
    suffixes = tuple(f".{target}.weight" for target in config.lora_targets)
    return sum(config.lora_rank * sum(shape) for name, shape in tensor_shapes(folder) if name.endswith(suffixes))


def quantised_count(folder: Path) -> int:
    """Numbers of the transformer in ``folder`` that ``quantised_base`` holds in eight bits."""
    return sum(math.prod(shape) for name, shape in tensor_shapes(folder) if is_quantised(name, shape))


def weight_bytes(config: Config, parameters: int, ranks: int, adapter: int = 0, quantised: int = 0) -> dict[str, int]:
    """Bytes a rank for the transformer of ``parameters`` numbers and what training adds to it, by purpose.

    What is trained is sharded over the ranks and gathered whole in the compute dtype, unless one rank needs no cast.
    What is frozen stands whole on each rank, once; ``quantised`` numbers of it take a byte each. Gradients are summed
    in float32. While the average of the weights is judged, the weights themselves are held in the gradients' place.
    """
    compute = BYTES[config.compute_dtype]
    trained = adapter if config.lora_rank else parameters
    master = 2 if config.precision == "bf16_stochastic" else 4
    moments = 2 * (1 + 4 / 256) if config.precision == "bf16_stochastic" else 8
    return {
        "frozen weights": (parameters - quantised) * compute + quantised if config.lora_rank else 0,
        "gathered weights": trained * compute if ranks > 1 or master != compute else 0,
        "trained weights": trained * master // ranks,
        "gradients": trained * 4 // ranks,
        "moments": int(trained * moments) // ranks,
        "moving average": trained * 4 // ranks if config.ema_decay else 0,
    }


def activation_bytes(
    config: Config, transformer: dict[str, Any], vae: dict[str, Any], text_tokens: int = TEXT_TOKENS
) -> int:
    """Bytes of what one gradient pass over a micro-batch keeps for its backward pass, from the models' settings."""
    compute, batch = BYTES[config.compute_dtype], config.micro_batch_size
    width = transformer.get("num_attention_heads", 24) * transformer.get("attention_head_dim", 128)
    blocks = transformer.get("num_layers", 19) + transformer.get("num_single_layers", 0)
    shrink = 2 * 2 ** (len(vae.get("block_out_channels", vae.get("dim_mult", "four"))) - 1)
    calls = 2 if config.true_guidance > 1 else 1
    states = calls * ((config.resolution // shrink) ** 2 + text_tokens) * width * compute * batch
    decoder = config.resolution**2 * vae.get("block_out_channels", [vae.get("base_dim", 128)])[0]
    decoder *= IN_THE_DECODER * compute * batch
    if config.gradient_checkpointing:  # the decoder's come and go before a block's are computed again
        return int(states * AT_A_BLOCK * blocks) + max(decoder, states * IN_A_BLOCK)
    return states * IN_A_BLOCK * blocks + decoder


def reward_bytes(folder: Path, size: int, batch: int) -> int:
    """Bytes of a reward's image tower (or of all it has), of ``size`` a number, and of what ``batch`` images keep."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vision_config", {})
    tokens = (settings.get("image_size", 224) // settings.get("patch_size", 14)) ** 2 + 1
    layers, width = settings.get("num_hidden_layers", 32), settings.get("hidden_size", 1280)
    loaded = parameter_count(folder, "vision_model") or parameter_count(folder)
    return size * (loaded + batch * tokens * layers * width * IN_A_REWARD)


def memory_parts(config: Config, folders: Folders, ranks: int, text_tokens: int = TEXT_TOKENS) -> dict[str, int]:
    """Bytes a rank needs, by purpose, from settings and file headers alone, for prompts of so many tokens."""
    folder = folders.base / "transformer"
    adapter = adapter_count(config, folder) if config.lora_rank else 0
    quantised = quantised_count(folder) if config.quantised_base else 0
    transformer, vae = (
        json.loads((folders.base / part / "config.json").read_text(encoding="utf-8")) for part in ("transformer", "vae")
    )
    rewards = [reward_bytes(found, BYTES[config.reward_dtype], config.micro_batch_size) for found in folders.rewards]
    return weight_bytes(config, parameter_count(folder), ranks, adapter, quantised) | {
        "VAE": parameter_count(folders.base / "vae") * BYTES[config.compute_dtype],
        "rewards": sum(rewards) + reward_bytes(folders.held_out, 4, 0),
        "activations": activation_bytes(config, transformer, vae, text_tokens),
    }


def check_memory(config: Config, folders: Folders, ranks: int, device: torch.device) -> None:
    """Refuse a run that needs more memory than a device has free.

    Raises:
        InputError: names the parts, both figures and the settings that lower the need.
    """
    parts = memory_parts(config, folders, ranks)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _available() // ranks
    if sum(parts.values()) > free:
        named = ", ".join(f"{name} {readable_size(size)}" for name, size in parts.items() if size)
        raise InputError(
            f"training needs about {readable_size(sum(parts.values()))} a process ({named}), {readable_size(free)} are "
            "free: use more processes, a smaller micro_batch_size, precision bf16_stochastic, lora_rank, or "
            "quantised_base with it"
        )


def _available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**63
