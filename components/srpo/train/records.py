"""What a run writes down: one record a step, to a history file and to the trackers that the user chose."""

import dataclasses
import json
import resource
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from srpo.core.storage.files import write_text
from srpo.train.config import Config
from srpo.train.estimates import interval
from srpo.train.guard import Reading

HISTORY = "history.jsonl"


def step_record(config: Config, step: int, sums: dict[str, float], norm: float, device: torch.device) -> dict[str, Any]:
    """A step's record: means over the global batch, seconds by phase (of this rank), memory."""
    names = ("loss", "reward_denoise", "reward_inversion")
    total = torch.tensor([sums[name] for name in names], dtype=torch.float64, device=device)
    dist.all_reduce(total)
    record: dict[str, Any] = {"step": step}
    record |= {name: value / config.batch_size for name, value in zip(names, total.tolist(), strict=True)}
    record |= {"grad_norm": norm, "learning_rate": config.learning_rate}
    if config.method == "direct_align":  # of the first injection, for the first sample
        high, low = interval(config, step - 1, 0, 0)
        record |= {"sigma_high": round(float(high), 5), "sigma_low": round(float(low), 5)}
    record |= {name: round(value, 4) for name, value in sums.items() if name.startswith("seconds_")}
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _resident_peak()
    record["memory_gib"] = round(peak / 2**30, 3)
    return record


def _resident_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def readings(records: list[dict[str, Any]]) -> list[Reading]:
    """The guard's readings among the records of a run."""
    names = [field.name for field in dataclasses.fields(Reading)]
    return [Reading(**{name: record[name] for name in names}) for record in records if "held_out" in record]


class Recorder:
    """Writes records on rank 0: a line of JSON each, and scalars to the configured trackers (accelerate's)."""

    def __init__(self, config: Config, state: Path, earlier: list[dict[str, Any]]) -> None:
        self.file = state / HISTORY
        self.trackers: list[Any] = []
        if dist.get_rank() == 0:
            state.mkdir(parents=True, exist_ok=True)
            write_text(self.file, "".join(json.dumps(record) + "\n" for record in earlier))
            self.trackers = start_trackers(config, state)

    def __call__(self, record: dict[str, Any]) -> None:
        """Write one record."""
        if dist.get_rank() == 0:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            numbers = {name: value for name, value in record.items() if isinstance(value, (int, float))}
            for tracker in self.trackers:
                tracker.log(numbers, step=record["step"])

    def finish(self) -> None:
        """Close the trackers."""
        for tracker in self.trackers:
            tracker.finish()


def start_trackers(config: Config, state: Path) -> list[Any]:
    """accelerate's trackers by name (the preflight has seen that they are known and installed)."""
    if not config.trackers:
        return []
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState(cpu=not torch.cuda.is_available())  # the trackers ask it which rank they are on
    started = []
    for name in config.trackers:
        kind = LOGGER_TYPE_TO_CLASS[name]
        tracker = kind("srpo", logging_dir=str(state)) if kind.requires_logging_directory else kind("srpo")
        tracker.start()
        tracker.store_init_configuration({k: str(v) for k, v in dataclasses.asdict(config).items()})
        started.append(tracker)
    return started
