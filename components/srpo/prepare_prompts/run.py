"""Read every source, tidy, refuse, split, and leave one table with what was refused beside it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import PROMPTS, write_rows
from srpo.core.contracts.sources import split_weight
from srpo.core.execution.stage import Context, Stage
from srpo.core.storage.files import write_json, write_text
from srpo.core.storage.models import read_models, required
from srpo.prepare_prompts import sources, tokens
from srpo.prepare_prompts.config import Config
from srpo.prepare_prompts.formats import Row
from srpo.prepare_prompts.judge import Judge
from srpo.prepare_prompts.report import render
from srpo.prepare_prompts.rows import Rows
from srpo.prepare_prompts.summary import Summary, summarise

REJECTED = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),  # at most its first 4000 characters
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),  # the prompt that it repeats, its length, the blocked word ...
    ],
    metadata={"srpo.schema": "rejected_prompts", "srpo.schema_version": "2"},
)
BATCH, LETTERS = 8192, 1 << 23  # prompts in memory at a time, and their characters


@dataclass(frozen=True)
class Inputs:
    """``models``, where given: the base model's tokenizers count tokens. Sources are named in the configuration."""

    models: Path | None = None


@dataclass(frozen=True)
class Outputs:
    """Where the results go."""

    prompts: Path  # prompts.parquet (schema PROMPTS, sorted by prompt_id) and rejected.parquet
    report: Path
    metrics: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Make the table of prompts; see the README beside this file."""
    judge = Judge(config, _encoders(inputs, context))
    files = sources.find(config.sources)
    weights = dict(map(split_weight, config.sources))
    with Rows(context.state, [(file.name, file.source, weights[file.source]) for file in files]) as rows:
        for number, file in enumerate(files):
            for batch in in_batches(sources.read(file, config.column)):
                rows.add(judge(number, batch))
                context.progress(number, len(files), prompts=judge.seen)
        rows.check_ids()
        rows.refuse_duplicates()
        if config.near_duplicates is not None:
            context.progress(len(files), len(files), prompts=judge.seen, doing="near duplicates")
            rows.refuse_near(config.near_duplicates, context.state)
        rows.draw_by_weight()
        rows.cap("rating", config.rating_per_category, "rating_per_category", by="category")
        rows.cap("train", config.train_prompts, "train_prompts")
        rows.cap("held_out", config.held_out_prompts, "held_out_prompts")

        summary = summarise(rows, judge.changes, judge.encoders)
        _check_splits(summary, config)
        write_rows(outputs.prompts / "prompts.parquet", rows.kept(), PROMPTS)
        write_rows(outputs.prompts / "rejected.parquet", rows.refused(), REJECTED)
    write_json(outputs.metrics, summary.metrics())
    write_text(
        outputs.report, render(summary, config, {file.name: sources.fingerprint(file.location) for file in files})
    )
    context.progress(len(files), len(files), prompts=summary.kept)


def in_batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """``rows`` by some thousands, or fewer long ones."""
    batch: list[Row] = []
    letters = 0
    for row in rows:
        batch.append(row)
        letters += len(row.prompt)
        if len(batch) == BATCH or letters >= LETTERS:
            yield batch
            batch, letters = [], 0
    if batch:
        yield batch


def fingerprint(config: Config) -> list[str]:
    """What the content of each file is known by: an edited prompt file makes a new result."""
    found = [f"{file.name}: {sources.fingerprint(file.location)}" for file in sources.find(config.sources)]
    if config.blocklist is not None:
        found.append(f"blocklist: {sources.fingerprint(config.blocklist)}")
    return found


def _encoders(inputs: Inputs, context: Context) -> list[tokens.Encoder]:
    if inputs.models is None:
        return []
    return tokens.load(required(read_models(inputs.models, context.workspace), "base").folder)


def _check_splits(summary: Summary, config: Config) -> None:
    refused = ", ".join(f"{count} {reason}" for reason, count in summary.reasons.items()) or "none refused"
    if not summary.kept:
        raise InputError(
            f"sources {list(config.sources)} leave no prompts ({refused}): at least one of each split must remain"
        )
    for split in ("train", "held_out", *(["rating"] if config.rating_fraction else [])):
        if not summary.splits[split]:
            name = "rating_fraction" if split == "rating" else "held_out_fraction"
            raise InputError(
                f"none of the {summary.kept} prompts is {split} with {name} {getattr(config, name)} "
                f"({refused}): {'lower' if split == 'train' else 'raise'} it or add prompts"
            )


STAGE = Stage(name="prepare_prompts", config=Config, inputs=Inputs, outputs=Outputs, run=run, fingerprint=fingerprint)
