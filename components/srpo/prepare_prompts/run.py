"""Read every source, clean, split, and leave one table with what was refused beside it."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import PROMPTS, write_table
from srpo.core.execution.stage import Context, Stage
from srpo.core.storage.files import write_json, write_text
from srpo.prepare_prompts import sources
from srpo.prepare_prompts.cleaning import Cleaned, clean
from srpo.prepare_prompts.config import Config
from srpo.prepare_prompts.report import render

REJECTED = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
    ],
    metadata={"srpo.schema": "rejected_prompts", "srpo.schema_version": "1"},
)


@dataclass(frozen=True)
class Inputs:
    """Nothing: the sources are named in the configuration and known by their hashes."""


@dataclass(frozen=True)
class Outputs:
    """Where the results go."""

    prompts: Path  # prompts.parquet (schema PROMPTS, sorted by prompt_id) and rejected.parquet
    report: Path
    metrics: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Make the table of prompts; see the README beside this file."""
    names = source_names(config.sources)
    rows = []
    for done, (source, name) in enumerate(zip(config.sources, names, strict=True), 1):
        rows += sources.read(source, name, config.column)
        context.progress(done, len(config.sources), prompts=len(rows))

    cleaned = clean(rows, config)
    splits = Counter(row.split for row in cleaned.kept)
    for split in ("train", "held_out"):
        if not splits[split]:
            raise InputError(_none_left(split, cleaned, config))

    write_table(outputs.prompts / "prompts.parquet", _table(cleaned.kept, PROMPTS), PROMPTS)
    write_table(outputs.prompts / "rejected.parquet", _table(cleaned.rejected, REJECTED), REJECTED)
    write_json(outputs.metrics, metrics(cleaned))
    write_text(
        outputs.report,
        render(cleaned, [(name, sources.fingerprint(s)) for s, name in zip(config.sources, names, strict=True)]),
    )


def fingerprint(config: Config) -> list[str]:
    """SHA-256 of each source's content: an edited prompt file makes a new result."""
    return [sources.fingerprint(source) for source in config.sources]


def source_names(given: tuple[str, ...]) -> list[str]:
    """File names, the same wherever the files lie; as given where two files have one name."""
    names = [Path(source).name for source in given]
    return [source if names.count(name) > 1 else name for source, name in zip(given, names, strict=True)]


def metrics(cleaned: Cleaned) -> dict[str, float]:
    """Counts and lengths (in characters) as flat numbers."""
    lengths = [len(row.prompt) for row in cleaned.kept]
    splits = Counter(row.split for row in cleaned.kept)
    return {
        "read": len(cleaned.kept) + len(cleaned.rejected),
        "kept": len(cleaned.kept),
        "train": splits["train"],
        "held_out": splits["held_out"],
        "changed": cleaned.changed,
        "categories": len({row.category for row in cleaned.kept}),
        "mean_characters": sum(lengths) / len(lengths),
        "max_characters": max(lengths),
        "rejected": len(cleaned.rejected),
    } | {f"rejected_{reason.replace(' ', '_')}": count for reason, count in sorted(cleaned.reasons().items())}


def _table(rows: list[Any], schema: pa.Schema) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def _none_left(split: str, cleaned: Cleaned, config: Config) -> str:
    refused = ", ".join(f"{count} {reason}" for reason, count in cleaned.reasons().items()) or "none refused"
    if not cleaned.kept:
        return f"sources {list(config.sources)} leave no prompts ({refused}): at least one of each split must remain"
    change = "raise it or add prompts" if split == "held_out" else "lower it or add prompts"
    return (
        f"none of the {len(cleaned.kept)} prompts is {split} with held_out_fraction {config.held_out_fraction} "
        f"({refused}): {change}"
    )


STAGE = Stage(name="prepare_prompts", config=Config, inputs=Inputs, outputs=Outputs, run=run, fingerprint=fingerprint)
