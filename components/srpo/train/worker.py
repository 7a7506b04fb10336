"""One rank of the training, started by torchrun: join, load, resume, step, guard, save."""

import copy
import dataclasses
import functools
import math
import os
import shutil
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
from srpo.core.contracts.errors import InputError
from srpo.core.execution.device import find_device
from srpo.core.execution.progress import Progress
from srpo.core.execution.quiet import quiet
from srpo.core.rewards.scores import Scorer, load_reward
from srpo.core.storage.files import write_json, write_text
from srpo.train.background import room_for_copies, writing
from srpo.train.batches import Latents, Texts
from srpo.train.checkpoints import (
    Clock,
    complete_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    read_facts,
    save_checkpoint,
)
from srpo.train.config import Config
from srpo.train.gradients import GradientSums, clip_gradient
from srpo.train.guard import best_reading, collapsed, read_guard
from srpo.train.interruption import Heartbeat, Interrupted, Interruption
from srpo.train.launcher import ERROR, RESULT, TERMINATED
from srpo.train.memory import Folders, choose_kept, free_bytes
from srpo.train.records import Recorder, readings, step_record
from srpo.train.sharding import (
    MovingAverage,
    check_start,
    drop_gathered,
    gather,
    make_optimizer,
    process_group,
    recompute_blocks,
    save_weights,
    sharded_transformer,
    trained_parameters,
)
from srpo.train.step import Reward, Stopwatch, gradient_step


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
    latents: str  # folder of real images' latents, for the offline variant
    heartbeat: str = ""  # file that the launcher of several nodes writes, for the first rank to look at

    def folders(self) -> Folders:
        """The folders whose weights this job will load."""
        return Folders(Path(self.base), [Path(folder) for _, folder, _ in self.rewards], Path(self.held_out))


def work(settings: dict[str, Any]) -> None:
    """Run this rank; its error is left in the state folder for the process that started it.

    Raises:
        SystemExit: 2 for bad input, 143 after SIGTERM, 1 for any other failure.
    """
    job = Job(**settings)
    try:
        train(job, from_mapping(Config, job.config, "train"))
    except Exception as error:
        if not (Path(job.state) / ERROR).exists():  # the first rank to fail knows why; the others lose their peer
            write_text(Path(job.state) / ERROR, f"{type(error).__name__}: {error}")
        if isinstance(error, InputError):
            print(f"srpo: train: {error}", flush=True)
            raise SystemExit(2) from None
        traceback.print_exc()
        raise SystemExit(1) from None


def train(job: Job, config: Config) -> None:
    """Train from the newest checkpoint (or the base) to the last step, and leave the best weights."""
    quiet()
    watched = bool(job.heartbeat) and os.environ.get("RANK") == "0"
    interruption = Interruption(Heartbeat(Path(job.heartbeat)) if watched else None)
    state, device = Path(job.state), find_device(config.device)
    torch.use_deterministic_algorithms(device.type == "cpu")
    with process_group(device), writing(device) as writer:
        rank, world = dist.get_rank(), dist.get_world_size()
        interruption.device = device
        check_ranks(config, world)
        if rank == 0:  # what a try before this one was writing when it was killed
            for partial in (*state.glob(".weights-*.partial"), *state.glob(".step-*.partial")):
                shutil.rmtree(partial)
        kept = choose_kept(config, job.folders(), world, free_bytes(world, device))
        writer.background = room_for_copies(config, job.folders(), world, kept, device)
        newest = newest_checkpoint(state)
        records: list[dict[str, Any]] = read_facts(newest, config) if newest else [{"step": 0}]
        roles = [role for role, _, _ in job.rewards]
        texts = Texts.open(Path(job.prompts), Path(job.embeddings), Path(job.text_features), roles, job.base_digest)

        # Only now weights are loaded.
        kind = backbone_of(Path(job.base))
        base = Path(job.base) / "transformer"
        transformer = sharded_transformer(config, kind, base, device)
        if not newest:
            check_start(config, transformer, kind, base)
        recompute_blocks(transformer, kept.blocks)
        dtype, precise = DTYPES[config.compute_dtype], DTYPES[config.reward_dtype]
        vae, scheduler = kind.load_vae(Path(job.base), device, dtype), load_scheduler(Path(job.base))
        backbone = kind(transformer, vae, dtype, scheduler)
        if not kept.decoder:
            backbone.recompute_decoder()
        rewards = [
            Reward(role, load_reward(Path(folder), device, precise), weight) for role, folder, weight in job.rewards
        ]
        judge = Scorer.load(Path(job.held_out), texts.held_out, device)
        trained = trained_parameters(transformer)
        optimizer, gradients = make_optimizer(config, transformer), GradientSums(trained)
        average = MovingAverage(transformer, config.ema_decay)
        if newest:
            load_checkpoint(newest, transformer, optimizer, average)
        latents = Latents(config, job.base_digest, Path(job.latents)) if config.offline_images else None
        record_step = Recorder(config, state, records[:-1] if due(config, records[-1]) else records)
        progress = Progress("train") if rank == 0 else None
        own_rows = list(range(rank, config.batch_size, world))
        saved, clock = records[-1]["step"], Clock(config.checkpoint_minutes, device)
        saving = Stopwatch(device)

        def guard() -> None:
            """Add a reading of the guard to the last record; weights that are the best so far are kept."""
            with average.swapped():
                gather(transformer)
                reading = read_guard(config, backbone, judge, texts, records[-1]["step"], interruption)
                drop_gathered(transformer)
                if best_reading([*readings(records), reading], config).step == reading.step:
                    with saving("saving"):
                        save_weights(writer, config, transformer, state / f"weights-{reading.step:06d}", base)
            records[-1] |= dataclasses.asdict(reading)

        def one_step(step: int) -> dict[str, Any]:
            """Step number ``step``, from 0: the gradient of its batch, then the optimiser."""
            started = time.perf_counter()
            # FSDP averages over the ranks; a sample counts 1 / batch_size over all of them.
            scale = world / config.batch_size
            sums = gradient_step(config, backbone, rewards, texts, step, own_rows, scale, latents, interruption)
            gradients.give()
            norm = clip_gradient(trained, config.clip_norm)
            record = step_record(config, step + 1, sums, norm, device)
            with Stopwatch(device)("optimizer") as watch:
                if usable(norm, record["loss"]):
                    optimizer.step()
                    average.update()
                else:
                    record["skipped"] = 1
                optimizer.zero_grad(set_to_none=True)
                drop_gathered(transformer)
            record["seconds_optimizer"] = round(watch.total["optimizer"], 4)
            record["seconds"] = round(time.perf_counter() - started, 4)
            record["images_per_second"] = round(config.batch_size / record["seconds"], 3)
            return record

        def record_last() -> None:
            """Write the last record down, with the seconds for which training has stood still to save."""
            records[-1]["seconds_saving"] = round(saving.total.pop("saving", 0.0), 4)
            record_step(records[-1])

        def save() -> None:
            """Have what is finished saved, if it is not, and then what that makes needless removed."""
            nonlocal saved
            if records[-1]["step"] > saved:
                saved = records[-1]["step"]
                clock.restart()
                facts = {"records": records, "config": dataclasses.asdict(config)}
                with saving("saving"):
                    save_checkpoint(writer, state / f"step-{saved:06d}", transformer, optimizer, average, facts)
                    writer.hand_over("removal", functools.partial(keep, state, config, copy.deepcopy(records)))

        def over() -> bool:
            """Whether no step is left to take."""
            return records[-1]["step"] >= config.steps or collapsed(readings(records), config)

        try:
            if due(config, records[-1]):
                guard()
                record_last()
            while not over():
                records.append(one_step(records[-1]["step"]))
                check_skipped(config, records)
                if due(config, records[-1]):
                    guard()
                record_last()
                step, record = records[-1]["step"], records[-1]
                if progress:
                    progress(step, config.steps, **{name: record[name] for name in ("loss", "grad_norm", "seconds")})
                if not over() and (step % config.checkpoint_every == 0 or clock.due()):
                    save()
        except Interrupted:  # the step or the reading under way is made again; what is finished is kept
            drop_gathered(transformer)
            save()
            writer.wait()
            if rank == 0:
                write_text(state / ERROR, "Interrupted: by SIGTERM, or left alone by its launcher")
            raise SystemExit(TERMINATED) from None

        record_step.finish()
        writer.wait()
        if rank == 0:
            seen = readings(records)
            result = {"best_step": best_reading(seen, config).step, "collapsed": collapsed(seen, config)}
            write_json(state / RESULT, result | {"records": records})
        dist.barrier()


def usable(norm: float, loss: float) -> bool:
    """Whether a step may be taken: the gradient can be finite where the loss is not."""
    return math.isfinite(norm) and math.isfinite(loss)


def due(config: Config, record: dict[str, Any]) -> bool:
    """Whether the guard has still to judge the weights after ``record``'s step."""
    step = record["step"]
    return (step % config.guard_every == 0 or step == config.steps) and "held_out" not in record


def check_skipped(config: Config, records: list[dict[str, Any]]) -> None:
    """Raise :class:`FloatingPointError` with the cause once ``nonfinite_limit`` steps were skipped."""
    skipped, last = sum(record.get("skipped", 0) for record in records), records[-1]
    if last.get("skipped") and skipped >= config.nonfinite_limit:
        raise FloatingPointError(
            f"{skipped} steps had a loss or a gradient that is not finite, the last is step {last['step']} "
            f"(norm {last['grad_norm']}, loss {last['loss']}): lower learning_rate, or compute in float32"
        )


def check_ranks(config: Config, world: int) -> None:
    """Refuse another number of ranks than the configuration names: a launcher that ignored it would go unseen.

    Raises:
        InputError: also when there are more ranks on this machine than GPUs.
    """
    if world != config.processes:
        raise InputError(
            f"{world} processes joined, the configuration names {config.processes}: "
            "train.processes must be the number that torchrun starts"
        )


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
