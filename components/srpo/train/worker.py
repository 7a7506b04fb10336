"""One rank of the training, started by torchrun: join, load, resume, step, guard, save."""

import argparse
import dataclasses
import json
import math
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from srpo.core.backbones.conditioning import DTYPES
from srpo.core.backbones.flux import Flux
from srpo.core.contracts.config import from_mapping
from srpo.core.execution.device import find_device
from srpo.core.execution.progress import Progress
from srpo.core.execution.quiet import quiet
from srpo.core.rewards.dual_encoder import ImageTower
from srpo.core.storage.files import write_json, write_text
from srpo.train.batches import Texts
from srpo.train.config import Config
from srpo.train.guard import Reading, best_reading, read_guard
from srpo.train.sharding import (
    keep_newest,
    load_checkpoint,
    newest_checkpoint,
    process_group,
    save_checkpoint,
    save_weights,
    sharded_transformer,
)
from srpo.train.step import gradient_step

HISTORY = "history.jsonl"
RESULT = "result.json"
ERROR = "error.txt"
CHECKPOINTS_KEPT = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What `run.py` hands to every rank."""

    config: dict[str, Any]
    base: str  # folder of the base pipeline
    base_digest: str
    reward: str
    held_out: str
    prompts: str
    embeddings: str
    text_features: str
    state: str  # folder that is the same for every retry


def main() -> None:
    """Entry point of a rank: ``python -m torch.distributed.run ... -m srpo.train.worker --job job.json``."""
    parser = argparse.ArgumentParser(description="One rank of the training; started by torchrun.")
    parser.add_argument("--job", type=Path, required=True, help="JSON that the train stage wrote")
    job = Job(**json.loads(parser.parse_args().job.read_text(encoding="utf-8")))
    try:
        train(job, from_mapping(Config, job.config, "train"))
    except Exception as error:
        write_text(Path(job.state) / ERROR, f"{type(error).__name__}: {error}")
        traceback.print_exc()
        raise SystemExit(1) from None


def train(job: Job, config: Config) -> None:
    """Train from the newest checkpoint (or the base) to the last step, and leave the best weights."""
    quiet()
    state, device = Path(job.state), find_device(config.device)
    torch.use_deterministic_algorithms(device.type == "cpu")
    with process_group(device):
        rank, world = dist.get_rank(), dist.get_world_size()
        check_ranks(config, world)
        texts = Texts.open(Path(job.prompts), Path(job.embeddings), Path(job.text_features), job.base_digest)
        dtype = DTYPES[config.compute_dtype]
        transformer = sharded_transformer(Path(job.base) / "transformer", device, dtype, config.gradient_checkpointing)
        vae = AutoencoderKL.from_pretrained(Path(job.base) / "vae", torch_dtype=dtype).to(device)
        flux = Flux(transformer, vae, dtype)
        reward = ImageTower.load(Path(job.reward), device)
        judge = ImageTower.load(Path(job.held_out), device)
        optimizer = torch.optim.AdamW(
            transformer.parameters(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            foreach=True,
        )
        progress = Progress("train") if rank == 0 else None
        records = resume(state, transformer, optimizer)
        rows = list(range(rank, config.batch_size, world))
        if not records:
            records.append(measured(config, flux, judge, texts, 0, records, state))

        for step in range(records[-1]["step"], config.steps):
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            # FSDP averages over the ranks; a sample counts 1 / batch_size over all of them.
            sums = gradient_step(config, flux, reward, texts, step, rows, world / config.batch_size)
            with_time = time.perf_counter()
            norm = float(torch.nn.utils.clip_grad_norm_(transformer.parameters(), config.clip_norm).full_tensor())
            if not math.isfinite(norm):
                raise FloatingPointError(f"the gradient of step {step + 1} is not finite (norm {norm})")
            optimizer.step()
            sums["seconds_optimizer"] = time.perf_counter() - with_time
            record = summary(config, step + 1, sums, norm, device) | {"seconds": time.perf_counter() - started}
            if (step + 1) % config.guard_every == 0 or step + 1 == config.steps:
                record |= measured(config, flux, judge, texts, step + 1, [*records, record], state)
            records.append(record)
            if rank == 0:
                with (state / HISTORY).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            if progress:
                progress(step + 1, config.steps, **{name: record[name] for name in ("loss", "grad_norm", "seconds")})
            if (step + 1) % config.checkpoint_every == 0:
                save_checkpoint(transformer, optimizer, state / f"step-{step + 1:06d}", {"records": records})
                keep_newest(state, CHECKPOINTS_KEPT)

        if rank == 0:
            best = best_reading(readings(records), config.guard_tolerance)
            write_json(state / RESULT, {"best_step": best.step, "records": records})
        dist.barrier()


def check_ranks(config: Config, world: int) -> None:
    """Refuse another number of ranks than the configuration names: a launcher that ignored it would go unseen."""
    if world != config.processes:
        raise RuntimeError(f"{world} processes joined, the configuration names {config.processes}")


def resume(state: Path, transformer: Any, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """The records up to the newest checkpoint, which is loaded; none where there is no checkpoint yet."""
    newest = newest_checkpoint(state)
    records: list[dict[str, Any]] = load_checkpoint(transformer, optimizer, newest)["records"] if newest else []
    if dist.get_rank() == 0:
        state.mkdir(parents=True, exist_ok=True)
        write_text(state / HISTORY, "".join(json.dumps(record) + "\n" for record in records))
    return records


def measured(
    config: Config, flux: Flux, judge: ImageTower, texts: Texts, step: int, records: list[dict[str, Any]], state: Path
) -> dict[str, Any]:
    """A guard reading as a record; when it is the best so far, the weights of this step are kept."""
    reading = read_guard(config, flux, judge, texts, step)
    if best_reading([*readings(records), reading], config.guard_tolerance).step == step:
        save_weights(flux.transformer, state / f"weights-{step:06d}")
        if dist.get_rank() == 0:
            for older in sorted(state.glob("weights-*"))[:-2]:  # the one before stays, should this step be run again
                shutil.rmtree(older)
    return dataclasses.asdict(reading)


def readings(records: list[dict[str, Any]]) -> list[Reading]:
    """The guard's readings among the records of a run."""
    names = [field.name for field in dataclasses.fields(Reading)]
    return [Reading(**{name: record[name] for name in names}) for record in records if "held_out" in record]


def summary(config: Config, step: int, sums: dict[str, float], norm: float, device: torch.device) -> dict[str, Any]:
    """A step's record: means over the global batch, seconds by phase (of rank 0), memory, rate."""
    names = ("loss", "reward_denoise", "reward_inversion")
    total = torch.tensor([sums[name] for name in names], dtype=torch.float64)
    whole = total.to(device) if device.type == "cuda" else total
    dist.all_reduce(whole)
    record: dict[str, Any] = {"step": step}
    record |= {name: value / config.batch_size for name, value in zip(names, whole.tolist(), strict=True)}
    record |= {"grad_norm": norm, "learning_rate": config.learning_rate}
    record |= {name: round(value, 4) for name, value in sums.items() if name.startswith("seconds_")}
    if device.type == "cuda":
        record["memory_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    return record


if __name__ == "__main__":
    main()
