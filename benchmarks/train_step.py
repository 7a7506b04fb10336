"""One training step by phase: seconds, peak memory and FLOP/s, held against the time and memory model.

    python benchmarks/train_step.py --output benchmarks/results/train_step.json
    python benchmarks/train_step.py --sizes flux1 --resolutions 720 --methods lora --output train_step.json   # on a GPU

The trainer's own parts on random weights: the tiny model on a CPU, its activations kept or computed again, in calls of
32 rows or 4; and on a GPU a whole FLUX.1 (12 B), its VAE and a ViT-H/14 reward, as LoRA of rank 32 and in full with
8-bit moments. A phase's FLOP/s stand against what a plain matrix product reaches on the same device in the same run.
Without a GPU its rows say so, beside what the model predicts for an H200 at half of 788 TFLOP/s. The least time of
several steps counts: what else the machine does only adds. Two minutes on one core; on a GPU about a minute a row.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import socket
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from encode import peak
from random_models import MODELS, Steps, described, random_weights
from tiny_world import machine

from srpo.core.backbones.conditioning import DTYPES
from srpo.train import cost, sharding, step
from srpo.train.config import Config
from srpo.train.memory import Kept, choose_kept, free_bytes, memory_parts

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"lora_rank": 32, "reward_dtype": "bfloat16"},
    "full": {"precision": "bf16_stochastic"},
}
TINY = {"compute_dtype": "float32", "micro_batch_size": 32, "batch_size": 32}
TINY_METHODS: dict[str, dict[str, Any]] = {
    "kept": {"gradient_checkpointing": "never"},
    "computed again": {"gradient_checkpointing": "always"},
    "4 rows a call": {"gradient_checkpointing": "never", "micro_batch_size": 4},
}
H200, USE = 788e12, 0.5  # FLOP/s of a bfloat16 product, and the share of it that a prediction reckons with
H200_BYTES = 139 * 2**30  # of memory that is free before a run


PEAKS: dict[str, float] = {}  # the most bytes that a phase held, over all steps


class Meter(step.Stopwatch):
    """The trainer's own stopwatch, which also keeps the most memory that a phase held."""

    def __enter__(self) -> "Meter":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        held = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else peak() * 1e6
        PEAKS[self.phase] = max(PEAKS.get(self.phase, 0), held)

    def _now(self) -> float:
        return super()._now() if self.device.type == "cuda" else time.process_time()


@contextlib.contextmanager
def one_rank(device: torch.device):
    """A process group of this process alone, as torchrun would start it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with sharding.process_group(device):
        yield


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of some square matrix products: what the device reaches, not what its maker says."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)
    watch, seconds = Meter(device), []
    for _ in range(12):
        watch.total.clear()
        with watch("matmul"):
            a @ a
        seconds.append(watch.total["matmul"])
    return 2 * size**3 / min(seconds)


def settings(size: str, method: str, resolution: int) -> Config:
    """The published settings; of the tiny model, as it is trained on a CPU."""
    tiny = size == "tiny"
    changes = TINY | TINY_METHODS[method] if tiny else {"micro_batch_size": 1, "batch_size": 1} | METHODS[method]
    return Config(**{"resolution": resolution, "trackers": ()} | changes)


def measure(size: str, config: Config, device: torch.device, kept: Kept, steps: int) -> dict[str, Any]:
    """Seconds and peak bytes of each phase of a whole step, per sample of the batch."""
    with TemporaryDirectory() as folder, one_rank(device), random_weights():
        run, found = Steps(config, MODELS[size], Path(folder), device, kept), []
        resting = torch.cuda.memory_allocated(device) if device.type == "cuda" else peak(now=True) * 1e6
        step.Stopwatch = Meter  # what the step measures itself by
        PEAKS.clear()
        for number in range(steps + 1):
            sums = run(number)
            found.append({name: sums[f"seconds_{name}"] for name in (*cost.PHASES, "optimizer")})
        least = {name: min(row[name] for row in found[1:]) / config.batch_size for name in found[0]}
    return {"seconds": least, "peak_bytes": dict(PEAKS), "resting_bytes": resting}


def row(size: str, method: str, resolution: int, device: torch.device | None, steps: int) -> dict[str, Any]:
    """One configuration, measured on ``device`` or, without one, predicted."""
    config, models = settings(size, method, resolution), MODELS[size]
    with TemporaryDirectory() as folder:
        folders = described(Path(folder), models)
        free = H200_BYTES if device is None else free_bytes(1, device)
        kept = choose_kept(config, folders, 1, free, models.text_tokens)
        predicted_bytes = memory_parts(config, folders, 1, kept, models.text_tokens)
    flops = cost.step_flops(config, models, kept)
    result: dict[str, Any] = {"size": size, "method": method, "resolution": resolution, "flops_per_sample": flops}
    result |= {"kept": dataclasses.asdict(kept), "predicted_bytes": predicted_bytes}
    if device is None:
        return result | {"measured": None, "predicted_seconds": cost.step_seconds(flops, H200, USE)}
    rate = matmul_rate(device, DTYPES[config.compute_dtype])
    measured = measure(size, config, device, kept, steps)
    use = {name: flops[name] / measured["seconds"][name] / rate for name in flops}
    overall = sum(flops.values()) / sum(measured["seconds"][name] for name in flops) / rate
    predicted = cost.step_seconds(flops, rate, overall)
    return result | {"measured": measured, "matmul_flops": rate, "use": use, "predicted_seconds": predicted}


def print_row(result: dict[str, Any]) -> None:
    """A table by phase."""
    measured, flops, predicted = result["measured"], result["flops_per_sample"], result["predicted_seconds"]
    print(f"\n{result['size']}, {result['method']}, {result['resolution']} x {result['resolution']}, a sample:\n")
    print("| phase | TFLOP | predicted, s | measured, s | of a matmul's FLOP/s | peak memory, GiB |")
    print("|---|---|---|---|---|---|")
    for phase in (*cost.PHASES, "optimizer"):
        known = phase in flops
        cells = [f"{flops[phase] / 1e12:.4g}", f"{predicted[phase]:.4g}"] if known else ["", ""]
        if measured:
            cells += [f"{measured['seconds'][phase]:.4g}", f"{result['use'][phase]:.0%}" if known else ""]
            cells += [f"{measured['peak_bytes'][phase] / 2**30:.2f}"]
        else:
            cells += ["not measured"] * 3
        print(f"| {phase} | {' | '.join(cells)} |")
    parts = ", ".join(f"{name} {size / 2**30:.2f}" for name, size in result["predicted_bytes"].items() if size)
    print(f"\nmemory predicted, GiB: {sum(result['predicted_bytes'].values()) / 2**30:.2f} ({parts})")
    if measured:
        print(f"resting before the step: {measured['resting_bytes'] / 2**30:.2f}")


def one_thread() -> None:
    """How a row's own process starts: the memory of one row must not hide in what another left."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


def main() -> None:
    """Measure what can be measured here, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--sizes", nargs="+", choices=list(MODELS), default=["tiny", "flux1"])
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--resolutions", nargs="+", type=int, default=[512, 720, 1024], help="of FLUX.1")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, after one that warms up")
    arguments = parser.parse_args()
    gpu = torch.device("cuda") if torch.cuda.is_available() else None
    rows = []
    for size in arguments.sizes:
        tiny = size == "tiny"
        for method in TINY_METHODS if tiny else arguments.methods:
            for resolution in [32] if tiny else arguments.resolutions:
                device = gpu if size == "flux1" else torch.device("cpu")
                with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=one_thread) as fresh:
                    rows.append(fresh.submit(row, size, method, resolution, device, arguments.steps).result())
                print_row(rows[-1])
    where = machine() | {"gpu": torch.cuda.get_device_name() if gpu else "none", "threads": "1"}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": where, "seed": 0, "predicted for": {"flops": H200, "use": USE}, "rows": rows}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
