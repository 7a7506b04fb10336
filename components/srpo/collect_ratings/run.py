"""Raters' files become one table, checked against the key, and the table becomes what people said."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srpo.collect_ratings.config import Config
from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import Context, Stage
from srpo.core.ratings.report import headline, lines, report
from srpo.core.ratings.study import KEY, read_study
from srpo.core.ratings.summary import gate_summary, summarise
from srpo.core.ratings.table import about, collect, read_ratings, write_ratings
from srpo.core.storage.files import sha256_of, write_json, write_text


@dataclass(frozen=True)
class Inputs:
    """Nothing of the pipeline's: ratings come from people."""


@dataclass(frozen=True)
class Outputs:
    """``ratings``: ratings.parquet (schema RATINGS) and ratings.json, its statistics."""

    ratings: Path
    report: Path
    metrics: Path
    summary: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Read the key, take all files or none, and write the table with its statistics."""
    study = read_study(Path(config.study))
    files = [Path(name) for name in config.ratings]
    if files[0].suffix == ".parquet":
        rows, owner = read_ratings(files[0])
        if owner != about(study):
            raise InputError(f"{files[0]} is of the study {owner.study!r}: it must be of {study.study!r}")
    else:
        rows = collect(files, study, partial=config.partial)
    context.progress(1, 2, answers=len(rows))
    write_ratings(outputs.ratings / "ratings.parquet", rows, about(study))
    found = summarise(rows, about(study), config.confidence)
    write_json(outputs.ratings / "ratings.json", found)
    write_json(outputs.metrics, flat_metrics(found))
    write_text(outputs.report, report(found))
    write_text(outputs.summary, f"**{headline(found)}**\n\n```\n" + "\n".join(lines(found)) + "\n```\n")
    context.progress(2, 2, raters=len(found["used"]))


def flat_metrics(found: dict[str, Any]) -> dict[str, float]:
    """Raters, prompts, and the mean and ends of every delta, as one flat mapping of numbers."""
    flat = {"raters": float(len(found["used"])), "prompts": float(found["prompts"])}
    for name, entry in gate_summary(found)["delta"].items():
        for side, value in entry.items():
            if value is not None:
                flat[f"{name}.{side}".replace(".", "_")] = value
    return flat


def fingerprint(config: Config) -> Any:
    """The bytes of the key and of every file; what is missing is told by ``run``."""
    key = Path(config.study) / KEY if Path(config.study).is_dir() else Path(config.study)
    return [sha256_of(path) if path.is_file() else None for path in (key, *map(Path, config.ratings))]


STAGE = Stage(name="collect_ratings", config=Config, inputs=Inputs, outputs=Outputs, run=run, fingerprint=fingerprint)
