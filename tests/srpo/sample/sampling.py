"""Helpers of the sampling tests: a small run of the stage on the tiny model, and what it left."""

import io
import json

import numpy as np
import torch
from diffusers import FluxTransformer2DModel
from PIL import Image

from srpo.core.contracts.schemas import SAMPLES, read_table
from srpo.core.execution.progress import Progress
from srpo.core.execution.stage import Context
from srpo.core.storage.files import list_files
from srpo.core.storage.models import read_models
from srpo.sample.config import Config
from srpo.sample.run import Inputs, Outputs, run

# 5 prompts of 2 noises in blocks of 4: two whole blocks and a rest of two images.
SMALL = {
    "resolution": 32,
    "steps": 4,
    "noises": 2,
    "max_prompts": 5,
    "block_size": 4,
    "compute_dtype": "float32",
    "device": "cpu",
}


def checkpoint(tiny_run, name, change):
    """A checkpoint as `train` leaves it, of the base's transformer with parameters changed by ``change``."""
    base = read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"].folder
    model = FluxTransformer2DModel.from_pretrained(base / "transformer", torch_dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += change * parameter.std().nan_to_num() * torch.randn(parameter.shape, generator=generator)
    weights = tiny_run.workspace / "state/train" / name
    model.save_pretrained(weights)
    folder = tiny_run.folder / "checkpoints" / name
    folder.mkdir(parents=True)
    facts = {"weights": weights.relative_to(tiny_run.workspace).as_posix(), "files": list_files(weights)}
    (folder / "checkpoint.json").write_text(json.dumps(facts))
    return folder


def sample(tiny_run, weights, folder, **config):
    """The folder of ``samples`` of one shard; its report is beside it."""
    (folder / "samples").mkdir(parents=True)
    names = ("models", "prompts", "embeddings", "text_features")
    inputs = Inputs(**{name: tiny_run.artifacts[name] for name in names}, checkpoint=weights)
    outputs = Outputs(folder / "samples", folder / "report.html")
    run(Config(**SMALL | config), inputs, outputs, Context(tiny_run.workspace, folder / "state", Progress("sample")))
    return folder / "samples"


def rows_of(*folders):
    """The rows of all shards by (prompt, noise, model), each with the bytes of its image."""
    rows = {}
    for folder in folders:
        for row in read_table(folder / "samples.parquet", SAMPLES).to_pylist():
            key = (row["prompt_id"], row["noise_index"], row["model"])
            assert key not in rows
            rows[key] = row | {"scores": dict(row["scores"]), "file": (folder / row["image"]).read_bytes()}
    return rows


def pixels_of(row):
    with Image.open(io.BytesIO(row["file"])) as image:
        return np.asarray(image.convert("RGB")).astype(int)
