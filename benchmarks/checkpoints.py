"""What saving costs a run: checkpoints and weights written at once, and in the background while the steps go on.

    python benchmarks/checkpoints.py --output benchmarks/results/checkpoints.json

The trainer's own steps and its own way of saving, on a FLUX.1 of 120 M parameters with random weights, in full, with
float32 masters. A run is four intervals of steps; after each it saves weights, and after each but the last a
checkpoint, as the published settings have it (20 steps, saved every 5). It ends when all is on disk. Runs of both kinds
take turns in the same processes. Files go where the system's temporary files go.

The thread that writes needs about half a core. On a CPU it takes that from the steps where no core is idle, so what
other processes took meanwhile is measured too; and in a second form the rank waits in place of taking steps, as it does
for a GPU. Three minutes on two cores, and as long again with ``--ranks 1 2``.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL
from random_models import FLUX1, MODELS, RandomTexts, described, random_tower, random_weight
from tiny_world import machine

from srpo.core.backbones.flux import Flux
from srpo.core.execution.quiet import quiet
from srpo.train import sharding
from srpo.train.background import Writer, writing
from srpo.train.checkpoints import save_checkpoint
from srpo.train.config import Config
from srpo.train.cost import Models
from srpo.train.gradients import GradientSums, clip_gradient
from srpo.train.step import Reward, gradient_step

CPU = torch.device("cpu")
WIDE = FLUX1 | {"num_layers": 3, "num_single_layers": 6, "num_attention_heads": 6, "joint_attention_dim": 256}
MODEL = Models(WIDE, MODELS["flux1-small"].vae, MODELS["flux1-small"].tower, text_tokens=32)
INTERVALS = 4
ELSEWHERE = 4.0  # seconds that steps on another device take
KINDS = {"at once": False, "in the background": True}


class Training:
    """One rank's model, and what it takes to train and to save it."""

    def __init__(self, writer: Writer, folder: Path) -> None:
        self.writer, self.folder, ranks = writer, folder, dist.get_world_size()
        self.config = Config(
            device="cpu",
            compute_dtype="float32",
            resolution=128,
            rollout_steps=4,
            batch_size=ranks,
            processes=ranks,
            micro_batch_size=2,
            gradient_checkpointing="never",
            trackers=(),
        )
        sharding.initial, sharding.read_weights = random_weight, lambda folder: {}
        self.model = sharding.sharded_transformer(self.config, Flux, folder / "transformer", CPU)
        self.flux = Flux(self.model, AutoencoderKL(**MODEL.vae))
        self.rewards = [Reward("reward", random_tower(MODEL.tower, CPU, torch.float32), 1.0)]
        self.texts: Any = RandomTexts.of(MODEL, ranks)
        self.trained = sharding.trained_parameters(self.model)
        self.optimizer, self.gradients = sharding.make_optimizer(self.config, self.model), GradientSums(self.trained)
        self.average = sharding.MovingAverage(self.model, self.config.ema_decay)

    def step(self, number: int) -> None:
        """One step of the trainer, of one sample a rank."""
        gradient_step(self.config, self.flux, self.rewards, self.texts, number, [dist.get_rank()], 1.0)
        self.gradients.give()
        clip_gradient(self.trained, self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        sharding.drop_gathered(self.model)

    def save(self, number: int) -> None:
        """Weights, and a checkpoint if this is not the last time; then those before are removed."""
        weights, checkpoint = (self.folder / f"{name}-{number}" for name in ("weights", "step"))
        sharding.save_weights(self.writer, self.config, self.model, weights, self.folder / "transformer")
        if number + 1 < INTERVALS:
            save_checkpoint(self.writer, checkpoint, self.model, self.optimizer, self.average, {})
            self.writer.hand_over("removal", lambda: self.remove_all_but(weights, checkpoint))

    def remove_all_but(self, *kept: Path) -> None:
        """Remove what was saved but for ``kept``."""
        for path in (*self.folder.glob("step-*"), *self.folder.glob("weights-*")):
            if path not in kept and dist.get_rank() == 0:
                shutil.rmtree(path)

    def run(self, steps: int) -> dict[str, Any]:
        """Seconds of a run with ``steps`` steps an interval (0: elsewhere): of these, of saving, of the end."""
        machine_before, own_before = processor_seconds()
        started, training, saving = time.perf_counter(), [], []
        for number in range(INTERVALS):
            now = time.perf_counter()
            for step in range(steps):
                self.step(number * steps + step)
            if not steps:
                time.sleep(ELSEWHERE)
            training.append(time.perf_counter() - now)
            now = time.perf_counter()
            self.save(number)
            saving.append(time.perf_counter() - now)
        now = time.perf_counter()
        self.writer.wait()
        ended = time.perf_counter()
        machine_after, own_after = processor_seconds()
        others = (machine_after - machine_before - own_after + own_before) / (ended - started)
        self.remove_all_but()
        return {
            "training": training,
            "saving": saving,
            "waiting": ended - now,
            "all": ended - started,
            "cores of others": others,
        }


def processor_seconds() -> tuple[float, float]:
    """Of the whole machine so far, and of this run's ranks."""
    user, nice, system = map(int, Path("/proc/stat").read_text(encoding="ascii").split()[1:4])
    own = torch.tensor(time.process_time(), dtype=torch.float64)
    dist.all_reduce(own)
    return (user + nice + system) / os.sysconf("SC_CLK_TCK"), float(own)


def rank_of(rank: int, ranks: int, port: int, folder: Path, intervals: list[int], turns: int) -> None:
    """Run both kinds in turns; the first rank writes what it measured."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    with writing(CPU) as writer:
        training = Training(writer, folder)
        training.step(0)  # the optimiser's state comes into being
        runs = []
        for steps in intervals:
            for _ in range(turns):
                for kind, writer.background in KINDS.items():
                    runs.append({"ranks": ranks, "steps": steps, "kind": kind, "seconds": training.run(steps)})
                    if rank == 0:
                        print(runs[-1], flush=True)
        parameters = sum(parameter.numel() for parameter in training.trained)
        if rank == 0:
            (folder / "runs.json").write_text(json.dumps({"parameters": parameters, "runs": runs}))
        dist.barrier()
    dist.destroy_process_group()


def row(ranks: int, steps: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the runs of one form."""
    found: dict[str, Any] = {"ranks": ranks, "steps": steps}
    for kind in KINDS:
        seconds = [run["seconds"] for run in runs if (run["ranks"], run["steps"], run["kind"]) == (ranks, steps, kind)]
        found[kind] = {
            "training": statistics.median(one for run in seconds for one in run["training"]),
            "saving": statistics.median(one for run in seconds for one in run["saving"][:-1]),
            "all": statistics.median(run["all"] for run in seconds),
            "cores of others": statistics.median(run["cores of others"] for run in seconds),
        }
    found["share"] = found["at once"]["saving"] / found["at once"]["training"]
    found["less"] = 1 - found["in the background"]["all"] / found["at once"]["all"]
    return found


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--ranks", nargs="+", type=int, default=[1])
    parser.add_argument("--steps", nargs="+", type=int, default=[2, 0], help="of an interval; 0: elsewhere")
    parser.add_argument("--turns", type=int, default=2, help="runs of each kind")
    arguments = parser.parse_args()
    quiet()
    runs, parameters = [], 0
    for ranks in arguments.ranks:
        with TemporaryDirectory() as folder, socket.socket() as taken:
            described(Path(folder), MODEL)
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            taken.close()
            given = (ranks, port, Path(folder), arguments.steps, arguments.turns)
            torch.multiprocessing.spawn(rank_of, given, nprocs=ranks)
            found = json.loads((Path(folder) / "runs.json").read_text())
        runs, parameters = runs + found["runs"], found["parameters"]
    rows = [row(ranks, steps, runs) for ranks in arguments.ranks for steps in arguments.steps]
    sizes = {"checkpoint": 12 * parameters, "weights": 2 * parameters}
    print(f"{parameters / 1e6:.0f} M parameters: checkpoints of {sizes['checkpoint'] / 1e9:.2f} GB\n")
    print(
        "| ranks | steps | seconds between saves | standing still at once, s | in the background, s | share | a run |"
    )
    print("|---|---|---|---|---|---|---|")
    for one in rows:
        place = f"{one['steps']} here" if one["steps"] else "elsewhere"
        print(
            f"| {one['ranks']} | {place} | {one['at once']['training']:.1f} | {one['at once']['saving']:.1f} "
            f"| {one['in the background']['saving']:.1f} | {one['share']:.2f} | {one['less']:.0%} less |"
        )
    result = {"machine": machine(), "seed": 0, "bytes": sizes, "intervals": INTERVALS, "rows": rows, "runs": runs}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
