"""One rank of the training, started by torchrun: join, load, resume, step, guard, save."""

import dataclasses
import math
import shutil
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from srpo.core.backbones.conditioning import DTYPES
from srpo.core.backbones.load import backbone_of
from srpo.core.backbones.schedule import load_scheduler
from srpo.core.contracts.config import from_mapping
from srpo.core.execution.device import find_device
from srpo.core.execution.progress import Progress
from srpo.core.execution.quiet import quiet
from srpo.core.rewards.scores import Scorer, load_reward
from srpo.core.storage.files import write_json, write_text
from srpo.train.batches import Texts
from srpo.train.checkpoints import complete_checkpoints, load_checkpoint, newest_checkpoint, save_checkpoint
from srpo.train.config import Config
from srpo.train.guard import best_reading, collapsed, read_guard
from srpo.train.memory import check_memory
from srpo.train.records import Recorder, readings, step_record
from srpo.train.sharding import (
    MovingAverage,
    drop_gathered,
    gather,
    make_optimizer,
    process_group,
    save_weights,
    sharded_transformer,
    trained_parameters,
)
from srpo.train.step import Reward, gradient_step

RESULT = "result.json"
ERROR = "error.txt"
TERMINATED = 143  # what a shell reports for SIGTERM


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What every rank is told."""

    config: dict[str, Any]
    base: str  # folder of the base pipeline
    base_digest: str
    rewards: list[tuple[str, str, float]]  # role, folder, weight
    held_out: str
    prompts: str
    embeddings: str
    text_features: str
    state: str  # folder that is the same for every retry


def work(settings: dict[str, Any]) -> None:
    """Run this rank; its error is left in the state folder for the process that started it."""
    job = Job(**settings)
    try:
        train(job, from_mapping(Config, job.config, "train"))
    except Exception as error:
        if not (Path(job.state) / ERROR).exists():  # the first rank to fail knows why; the others lose their peer
            write_text(Path(job.state) / ERROR, f"{type(error).__name__}: {error}")
        traceback.print_exc()
        raise SystemExit(1) from None


def train(job: Job, config: Config) -> None:
    """Train from the newest checkpoint (or the base) to the last step, and leave the best weights."""
    quiet()
    state, device = Path(job.state), find_device(config.device)
    torch.use_deterministic_algorithms(device.type == "cpu")
    terminated = catch_sigterm()
    with process_group(device):
        rank, world = dist.get_rank(), dist.get_world_size()
        check_ranks(config, world)
        check_memory(config, Path(job.base), world, device)
        roles = [role for role, _, _ in job.rewards]
        texts = Texts.open(Path(job.prompts), Path(job.embeddings), Path(job.text_features), roles, job.base_digest)
        kind = backbone_of(Path(job.base))
        transformer = sharded_transformer(config, kind, Path(job.base) / "transformer", device)
        dtype, precise = DTYPES[config.compute_dtype], DTYPES[config.reward_dtype]
        vae, scheduler = kind.load_vae(Path(job.base), device, dtype), load_scheduler(Path(job.base))
        backbone = kind(transformer, vae, dtype, scheduler)
        rewards = [
            Reward(role, load_reward(Path(folder), device, precise), weight) for role, folder, weight in job.rewards
        ]
        judge = Scorer.load(Path(job.held_out), texts.held_out, device)
        optimizer = make_optimizer(config, transformer)
        average = MovingAverage(transformer, config.ema_decay)
        newest = newest_checkpoint(state)
        records = load_checkpoint(newest, transformer, optimizer, average)["records"] if newest else []
        record_step = Recorder(config, state, records)
        progress = Progress("train") if rank == 0 else None
        own_rows = list(range(rank, config.batch_size, world))
        skipped = sum(record.get("skipped", 0) for record in records)

        def guard(step: int, earlier: list[dict[str, Any]]) -> dict[str, Any]:
            """A reading of the guard; weights that are the best so far are kept."""
            with average.swapped():
                gather(transformer)
                reading = read_guard(config, backbone, judge, texts, step)
                drop_gathered(transformer)
                if best_reading([*readings(earlier), reading], config).step == step:
                    save_weights(config, transformer, state / f"weights-{step:06d}")
            return dataclasses.asdict(reading)

        if not records:
            records.append(guard(0, []))
            record_step(records[0])

        for step in range(records[-1]["step"], config.steps):
            if collapsed(readings(records), config):
                break
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            # FSDP averages over the ranks; a sample counts 1 / batch_size over all of them.
            sums = gradient_step(config, backbone, rewards, texts, step, own_rows, world / config.batch_size)
            norm = clip_gradient(transformer, config.clip_norm)
            before_optimizer = time.perf_counter()
            finite = math.isfinite(norm)
            if finite:
                optimizer.step()
                average.update()
            sums["seconds_optimizer"] = time.perf_counter() - before_optimizer
            drop_gathered(transformer)
            record = step_record(config, step + 1, sums, norm, device)
            if not finite:
                skipped += 1
                record["skipped"] = 1
                if skipped >= config.nonfinite_limit:
                    raise FloatingPointError(
                        f"{skipped} steps had a gradient that is not finite, the last is step {step + 1} "
                        f"(norm {norm}, loss {record['loss']}): lower learning_rate, or compute in float32"
                    )
            record["seconds"] = round(time.perf_counter() - started, 4)
            record["images_per_second"] = round(config.batch_size / record["seconds"], 3)
            if (step + 1) % config.guard_every == 0 or step + 1 == config.steps:
                record |= guard(step + 1, [*records, record])
            records.append(record)
            record_step(record)
            if progress:
                progress(step + 1, config.steps, **{name: record[name] for name in ("loss", "grad_norm", "seconds")})
            stopping = any_rank(terminated.is_set, device)
            if (step + 1) % config.checkpoint_every == 0 or stopping:
                save_checkpoint(state / f"step-{step + 1:06d}", transformer, optimizer, average, {"records": records})
                keep(state, config, records)
            if stopping:
                raise SystemExit(TERMINATED)

        record_step.finish()
        if rank == 0:
            seen = readings(records)
            result = {"best_step": best_reading(seen, config).step, "collapsed": collapsed(seen, config)}
            write_json(state / RESULT, result | {"records": records})
        dist.barrier()


class Flag:
    """Set by a signal, read between steps."""

    def __init__(self) -> None:
        self.value = False

    def set(self, *arguments: object) -> None:
        self.value = True

    def is_set(self) -> bool:
        return self.value


def catch_sigterm() -> Flag:
    """From now on SIGTERM only sets a flag: the step under way is finished and saved, within the grace period."""
    flag = Flag()
    signal.signal(signal.SIGTERM, flag.set)
    return flag


def any_rank(condition: Any, device: torch.device) -> bool:
    """Whether ``condition()`` holds on any rank, the same answer on all."""
    answer = torch.tensor([float(condition())], device=device)
    dist.all_reduce(answer, dist.ReduceOp.MAX)
    return bool(answer.item())


def clip_gradient(transformer: Any, limit: float) -> float:
    """Clip the gradient over all shards to the norm ``limit``; returns the norm that it had."""
    norm = torch.nn.utils.clip_grad_norm_(trained_parameters(transformer), limit)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)


def check_ranks(config: Config, world: int) -> None:
    """Refuse another number of ranks than the configuration names: a launcher that ignored it would go unseen."""
    if world != config.processes:
        raise RuntimeError(f"{world} processes joined, the configuration names {config.processes}")


def keep(state: Path, config: Config, records: list[dict[str, Any]]) -> None:
    """Remove old checkpoints, and weights that neither now nor after a resume from a kept one can be the best."""
    if dist.get_rank() == 0:
        complete = complete_checkpoints(state)
        for path in complete[: -config.keep_checkpoints]:
            shutil.rmtree(path)
        wanted = {best_reading(readings(records), config).step}
        for path in complete[-config.keep_checkpoints :]:
            step = int(path.name.removeprefix("step-"))
            wanted.add(best_reading(readings([r for r in records if r["step"] <= step]), config).step)
        for path in state.glob("weights-*"):
            if int(path.name.removeprefix("weights-")) not in wanted:
                shutil.rmtree(path)
