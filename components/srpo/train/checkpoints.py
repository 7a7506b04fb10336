"""Checkpoints of a run in progress: whole or not there, found by themselves, readable on any number of ranks."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from srpo.core.storage.files import write_json
from srpo.train.sharding import MovingAverage

FACTS = "facts.json"


def save_checkpoint(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer, average: MovingAverage, facts: dict[str, Any]
) -> None:
    """Save the shards of all ranks under ``folder``; it appears by one rename when every rank is done."""
    partial = folder.with_name(f".{folder.name}.partial")
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
    dist.barrier()
    dcp.save(_state(model, optimizer, average), checkpoint_id=partial)
    if dist.get_rank() == 0:
        write_json(partial / FACTS, facts)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    dist.barrier()


def load_checkpoint(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer, average: MovingAverage
) -> dict[str, Any]:
    """Load what :func:`save_checkpoint` saved, on any number of ranks; returns its facts."""
    state = _state(model, optimizer, average)
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return dict(json.loads((folder / FACTS).read_text(encoding="utf-8")))


def newest_checkpoint(state: Path) -> Path | None:
    """The newest complete checkpoint below ``state``, or None."""
    found = complete_checkpoints(state)
    return found[-1] if found else None


def complete_checkpoints(state: Path) -> list[Path]:
    """The complete checkpoints below ``state``, oldest first."""
    return sorted(path for path in state.glob("step-*") if (path / FACTS).is_file())


def _state(model: Any, optimizer: torch.optim.Optimizer, average: MovingAverage) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    # The average's tensors share memory with its shards, so loading into them is enough.
    return {"model": weights, "optimizer": moments, "average": average.state()}
