"""Run prepare_prompts on files, for its tests."""

import json

import pyarrow.parquet as pq

from srpo.core.contracts.schemas import PROMPTS, read_table
from srpo.core.execution.progress import Progress
from srpo.core.execution.stage import Context
from srpo.prepare_prompts import run as stage
from srpo.prepare_prompts.config import Config

ANIMALS = ["a red fox", "a heron", "two owls", "an otter in a river", "a moth", "a lynx", "a toad", "a hare"]


def prepare(folder, *sources, models=None, **settings):
    """Run the stage; returns (rows, rejected, metrics, report)."""
    out = stage.Outputs(prompts=folder / "prompts", report=folder / "report.html", metrics=folder / "metrics.json")
    out.prompts.mkdir(parents=True)
    config = Config(sources=tuple(str(source) for source in sources), **{"held_out_fraction": 0.5} | settings)
    context = Context(folder, folder / "state", Progress("prepare_prompts"))
    stage.run(config, stage.Inputs(models), out, context)
    rows = read_table(out.prompts / "prompts.parquet", PROMPTS).to_pylist()
    rejected = pq.read_table(out.prompts / "rejected.parquet").to_pylist()
    return rows, rejected, json.loads(out.metrics.read_text()), out.report.read_text()
