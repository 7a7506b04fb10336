"""Peak memory of a whole step by phase, followed without the memory, against what the memory model says of it.

    python benchmarks/train_memory.py --output benchmarks/results/train_memory.json

The trainer's own step on fake tensors, of FLUX.1 at full size with its VAE and two ViT-H/14 rewards: one sample at a
time, activations kept or computed again, one GPU or the first of eight. The model must never say less, and should not
say much more. Of the tiny model the step is made as well, and torch's allocator says what it really held. One minute a
row at full size on one core.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from random_models import MODELS, Steps, described, random_weights
from tiny_world import machine
from torch._C._profiler import _EventType
from train_step import METHODS, TINY, one_rank
from weightless import CPU, peaks

from srpo.train.config import Config
from srpo.train.cost import Models
from srpo.train.memory import Kept, block_count, memory_parts

ROWS: dict[str, dict[str, Any]] = {
    "LoRA": METHODS["lora"],
    "LoRA, base in 8 bits": METHODS["lora"] | {"quantised_base": True},
    "full, bf16_stochastic": METHODS["full"],
    "full, fp32_master, 8 GPUs": {"processes": 8},
}


def settings(size: str, resolution: int, changes: dict[str, Any]) -> Config:
    """One sample on each rank, a rollout of one call: more calls hold no more."""
    common = TINY | {"resolution": 32} if size == "tiny" else {"micro_batch_size": 1, "resolution": resolution}
    ranks = changes.get("processes", 1)
    batch = 32 if size == "tiny" else ranks
    return Config(**common | {"rollout_steps": 1, "trackers": (), "batch_size": batch} | changes)


def allocated(config: Config, models: Models, kept: Kept) -> int:
    """The most bytes that a real step holds on this CPU, the second as in :func:`weightless.peaks`."""
    with TemporaryDirectory() as folder, one_rank(CPU), random_weights():
        run = Steps(config, models, Path(folder), CPU, kept)
        run(0)
        now = peak = sum(tensor.numel() * tensor.element_size() for tensor in run.tensors())
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            run(1)
    found, events = [], list(profile.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events += event.children
        if event.tag == _EventType.Allocation:
            found.append((event.start_time_ns, event.extra_fields.alloc_size))
    for _, size in sorted(found, key=lambda one: one[0]):
        now += size
        peak = max(peak, now)
    return peak


def row(size: str, name: str, config: Config, kept: Kept) -> dict[str, Any]:
    """Followed and predicted bytes of one configuration."""
    models = MODELS[size]
    with TemporaryDirectory() as folder:
        parts = memory_parts(config, described(Path(folder), models), config.processes, kept, models.text_tokens)
    found = peaks(config, models, kept)
    result: dict[str, Any] = {"allocated_bytes": allocated(config, models, kept)} if size == "tiny" else {}
    return result | {
        "size": size,
        "method": name,
        "resolution": config.resolution,
        "blocks kept": kept.blocks,
        "decoder kept": kept.decoder,
        "peak_bytes": found,
        "predicted_bytes": parts,
        "predicted / followed": sum(parts.values()) / max(found.values()),
    }


def main() -> None:
    """Follow every row, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--sizes", nargs="+", choices=list(MODELS), default=["tiny", "flux1"])
    parser.add_argument("--methods", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--resolutions", nargs="+", type=int, default=[512, 720, 1024], help="of FLUX.1")
    arguments = parser.parse_args()
    rows = []
    print("| model | method | size | blocks kept | peak, GiB | where | predicted | ratio | allocated |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in arguments.sizes:
        blocks = block_count(MODELS[size].transformer)
        for name in ["full, float32"] if size == "tiny" else arguments.methods:
            for resolution in [32] if size == "tiny" else arguments.resolutions:
                for kept in (Kept(0, decoder=False), Kept(blocks, decoder=True)):
                    config = settings(size, resolution, ROWS.get(name, {}))
                    rows.append(found := row(size, name, config, kept))
                    phase, most = max(found["peak_bytes"].items(), key=lambda item: item[1])
                    said = sum(found["predicted_bytes"].values())
                    cells = (size, name, config.resolution, kept.blocks, f"{most / 2**30:.2f}", phase)
                    cells += (f"{said / 2**30:.2f}", f"{said / most:.2f}")
                    cells += (f"{found['allocated_bytes'] / 2**30:.2f}" if "allocated_bytes" in found else "",)
                    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
