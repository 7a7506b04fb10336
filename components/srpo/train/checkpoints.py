"""Checkpoints of a run in progress: whole or not there, found by themselves, readable on any number of ranks."""

import copy
import dataclasses
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import write_json
from srpo.train.background import Writer
from srpo.train.config import Config
from srpo.train.sharding import MovingAverage

FACTS = "facts.json"
# Settings that may change while a run goes on: how it is computed and watched, and where it ends.
FREE = {"steps", "device", "processes", "micro_batch_size", "gradient_checkpointing", "checkpoint_every"}
FREE |= {"keep_checkpoints", "nonfinite_limit", "trackers"}
FREE |= {field.name for field in dataclasses.fields(Config) if field.metadata.get("place")}


class Clock:
    """Says when the last checkpoint is too long ago: a pod that is killed at once has nothing but what was saved."""

    def __init__(self, minutes: float, device: torch.device) -> None:
        self.minutes, self.device, self.last = minutes, device, time.monotonic()

    def restart(self) -> None:
        """A checkpoint was begun."""
        self.last = time.monotonic()

    def due(self) -> bool:
        """Whether one is due; all ranks ask at the same place and get the same answer. With 0 minutes none is asked."""
        if not self.minutes:
            return False
        answer = torch.tensor(float(time.monotonic() - self.last >= 60 * self.minutes), device=self.device)
        dist.all_reduce(answer, dist.ReduceOp.MAX)
        return bool(answer.item())


def save_checkpoint(
    writer: Writer,
    folder: Path,
    model: Any,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage,
    facts: dict[str, Any],
) -> None:
    """Have ``writer`` save all as it is now under ``folder``; it appears by one rename when every rank is done."""
    writer.wait("checkpoint")
    state, facts = writer.staged(_state(model, optimizer, average)), copy.deepcopy(facts)

    def write() -> None:
        partial = folder.with_name(f".{folder.name}.partial")
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
        dist.barrier(writer.group)
        dcp.save(state, checkpoint_id=partial, process_group=writer.group)
        if dist.get_rank() == 0:
            write_json(partial / FACTS, facts)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)

    writer.hand_over("checkpoint", write)


def load_checkpoint(folder: Path, model: Any, optimizer: torch.optim.Optimizer, average: MovingAverage) -> None:
    """Load what :func:`save_checkpoint` saved, on any number of ranks."""
    dcp.load(_state(model, optimizer, average), checkpoint_id=folder)


def read_facts(folder: Path, config: Config) -> list[dict[str, Any]]:
    """The records up to a checkpoint, which must be one of the run that ``config`` describes.

    Raises:
        InputError: a setting that decides what is learnt has another value than when the checkpoint was written.
    """
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    for name, value in facts["config"].items():
        if name not in FREE and now.get(name) != value:
            raise InputError(
                f"train.{name} is {now.get(name)!r}, but {folder} was trained with {value!r}: "
                "it must stay the same while a run goes on; use another output folder for another run"
            )
    return list(facts["records"])


def newest_checkpoint(state: Path) -> Path | None:
    """The newest complete checkpoint below ``state``, or None."""
    found = complete_checkpoints(state)
    return found[-1] if found else None


def complete_checkpoints(state: Path) -> list[Path]:
    """The complete checkpoints below ``state``, oldest first."""
    return sorted(path for path in state.glob("step-*") if (path / FACTS).is_file())


def _state(model: Any, optimizer: torch.optim.Optimizer, average: MovingAverage) -> dict[str, Any]:
    """What changes from step to step. All of it shares memory with model, optimiser and average: loading fills them."""
    weights, moments = get_state_dict(model, optimizer, options=StateDictOptions(ignore_frozen_params=True))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    weights = {name: value for name, value in weights.items() if name in trained}  # a quantised base is in buffers
    return {"model": weights, "optimizer": moments, "average": average.state()}
