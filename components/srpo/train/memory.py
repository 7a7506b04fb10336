"""How much memory a run needs on each device, before any weight is loaded, and what activations there is room to keep.

A gradient pass keeps activations for its backward pass, or computes them again there. What is kept is chosen to fill
the memory that weights leave: one more block kept is one forward of it less to compute.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import readable_size
from srpo.core.storage.tensor_files import specs_of
from srpo.train.config import Config
from srpo.train.quantised import is_quantised

BYTES = {"float32": 4, "bfloat16": 2}
# What autograd keeps, in numbers: counted on diffusers' FLUX.1 and Qwen-Image, their VAEs and a CLIP ViT-H/14, and held
# against whole steps (benchmarks/train_memory.py, docs/training.md). Without the gradient of weights less is kept.
IN_A_BLOCK = {"full": 28, "lora": 17}  # for each token and channel of a transformer block
AGAIN_IN_A_BLOCK = {"full": 45, "lora": 28}  # of the one block whose backward pass is under way
AT_THE_ENDS = 5  # for each token and channel, before the first block and after the last
IN_THE_DECODER = {"kept": 46, "again": 20}  # for each pixel and each of its channels at full size
IN_THE_DECODER_OF_QWEN = {"kept": 84, "again": 29}
IN_A_REWARD = 20  # for each token, channel and layer
TEXT_TOKENS = 512
CGROUP = Path("/sys/fs/cgroup")  # of this container; version 2
FILLED = 0.9  # of the free memory, by choice: workspaces of kernels and fragments take some too


@dataclasses.dataclass(frozen=True)
class Kept:
    """The activations that a gradient pass keeps for its backward pass; all others are computed again there."""

    blocks: int  # of the transformer, counted from its last
    decoder: bool


@dataclasses.dataclass(frozen=True)
class Folders:
    """Where the weights of a run lie."""

    base: Path
    rewards: list[Path]
    held_out: Path


def parameter_count(folder: Path, part: str = "") -> int:
    """Numbers in the weights of a folder, in those tensors whose name holds ``part``."""
    return sum(math.prod(spec.shape) for spec in specs_of(folder) if part in spec.name)


def adapter_count(config: Config, folder: Path) -> int:
    """Numbers of a LoRA adapter on the transformer in ``folder``."""
    suffixes = tuple(f".{target}.weight" for target in config.lora_targets)
    return sum(config.lora_rank * sum(spec.shape) for spec in specs_of(folder) if spec.name.endswith(suffixes))


def quantised_count(folder: Path) -> int:
    """Numbers of the transformer in ``folder`` that ``quantised_base`` holds in eight bits."""
    return sum(math.prod(spec.shape) for spec in specs_of(folder) if is_quantised(spec.name, spec.shape))


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


def block_count(transformer: Mapping[str, Any]) -> int:
    """Blocks of a transformer, from its settings."""
    return int(transformer.get("num_layers", 19) + transformer.get("num_single_layers", 0))


def activation_bytes(
    config: Config, transformer: dict[str, Any], vae: dict[str, Any], kept: Kept, text_tokens: int = TEXT_TOKENS
) -> int:
    """Bytes of what one gradient pass over a micro-batch holds at its fullest, from the models' settings.

    The decoder's backward pass comes first, over all that the transformer has kept; then one block after the other.
    """
    compute, batch = BYTES[config.compute_dtype], config.micro_batch_size
    trained = "lora" if config.lora_rank else "full"
    width = transformer.get("num_attention_heads", 24) * transformer.get("attention_head_dim", 128)
    again = block_count(transformer) - kept.blocks
    shrink = 2 * 2 ** (len(vae.get("block_out_channels", vae.get("dim_mult", "four"))) - 1)
    calls = 2 if config.true_guidance > 1 else 1
    states = calls * ((config.resolution // shrink) ** 2 + text_tokens) * width * compute * batch
    numbers = IN_THE_DECODER_OF_QWEN if "base_dim" in vae else IN_THE_DECODER
    decoder = numbers["kept" if kept.decoder else "again"] * config.resolution**2 * compute * batch
    decoder *= vae["base_dim"] if "base_dim" in vae else vae.get("block_out_channels", [128])[0]
    transformers = states * (kept.blocks * IN_A_BLOCK[trained] + again + AT_THE_ENDS)
    return int(transformers + max(decoder, states * AGAIN_IN_A_BLOCK[trained]))


def reward_bytes(folder: Path, size: int, batch: int) -> int:
    """Bytes of a reward's image tower (or of all it has), of ``size`` a number, and of what ``batch`` images keep."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("vision_config", {})
    tokens = (settings.get("image_size", 224) // settings.get("patch_size", 14)) ** 2 + 1
    layers, width = settings.get("num_hidden_layers", 32), settings.get("hidden_size", 1280)
    loaded = parameter_count(folder, "vision_model") or parameter_count(folder)
    return size * (loaded + batch * tokens * layers * width * IN_A_REWARD)


def memory_parts(
    config: Config, folders: Folders, ranks: int, kept: Kept, text_tokens: int = TEXT_TOKENS
) -> dict[str, int]:
    """Bytes a rank needs, by purpose, from settings and file headers alone, for prompts of so many tokens."""
    transformer, vae = (_settings(folders.base / part) for part in ("transformer", "vae"))
    return _fixed_parts(config, folders, ranks) | {
        "activations": activation_bytes(config, transformer, vae, kept, text_tokens)
    }


def _fixed_parts(config: Config, folders: Folders, ranks: int) -> dict[str, int]:
    """What :func:`memory_parts` holds besides the activations that can be computed again."""
    folder = folders.base / "transformer"
    adapter = adapter_count(config, folder) if config.lora_rank else 0
    quantised = quantised_count(folder) if config.quantised_base else 0
    rewards = [reward_bytes(found, BYTES[config.reward_dtype], config.micro_batch_size) for found in folders.rewards]
    return weight_bytes(config, parameter_count(folder), ranks, adapter, quantised) | {
        "VAE": parameter_count(folders.base / "vae") * BYTES[config.compute_dtype],
        "rewards": sum(rewards) + reward_bytes(folders.held_out, 4, 0),
    }


def choose_kept(config: Config, folders: Folders, ranks: int, free: int, text_tokens: int = TEXT_TOKENS) -> Kept:
    """The activations to keep where a rank has ``free`` bytes: as ``gradient_checkpointing`` says, or all that fit.

    The transformer's go first: a byte of them spares more work than one of the decoder's.

    Raises:
        InputError: the run does not fit; names the parts, both figures and the settings that lower the need.
    """
    transformer, vae = (_settings(folders.base / part) for part in ("transformer", "vae"))
    blocks, fixed = block_count(transformer), _fixed_parts(config, folders, ranks)
    everything, nothing = Kept(blocks, decoder=True), Kept(0, decoder=False)
    choices = {"never": [everything], "always": [nothing]}.get(config.gradient_checkpointing) or [
        everything,
        *(Kept(number, decoder=False) for number in range(blocks, -1, -1)),
    ]
    for kept in choices:
        parts = fixed | {"activations": activation_bytes(config, transformer, vae, kept, text_tokens)}
        if sum(parts.values()) <= (free if kept is choices[-1] else FILLED * free):
            return kept
    named = ", ".join(f"{name} {readable_size(size)}" for name, size in parts.items() if size)
    raise InputError(
        f"training needs about {readable_size(sum(parts.values()))} a process ({named}), {readable_size(free)} are "
        "free: use more processes, a smaller micro_batch_size, precision bf16_stochastic, lora_rank, or "
        "quantised_base with it" + ("" if kept == nothing else ", or another gradient_checkpointing than never")
    )


def free_bytes(ranks: int, device: torch.device) -> int:
    """Bytes that this rank can still take on its device; ranks on a CPU share what the machine has."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_bytes() // ranks


def _settings(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


def host_bytes() -> int:
    """Bytes of this machine's memory, and of what this container may take of it, that are still free."""
    return min(_available(), left_in_cgroup())


def _available() -> int:
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 2**63


def left_in_cgroup(folder: Path = CGROUP) -> int:
    """Bytes that this container may still take; pages of files that nobody uses make way for it."""
    try:
        limit, used = ((folder / name).read_text("ascii").strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text("ascii").splitlines())
    except OSError:  # no container, or an older kernel
        return 2**63
    return 2**63 if limit == "max" else int(limit) - int(used) + int(stat["inactive_file"])
