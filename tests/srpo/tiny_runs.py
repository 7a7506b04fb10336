"""Runs of the stages on the tiny model, for tests: settings that are quick on a CPU, and the parts of a step."""

import importlib
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel

from srpo.core.backbones.flux import Flux
from srpo.core.contracts.config import from_mapping
from srpo.core.execution.stage import execute
from srpo.core.rewards.dual_encoder import ImageTower
from srpo.core.storage.models import read_models
from srpo.train.batches import Texts
from srpo.train.config import Config
from srpo.train.step import Reward

# How the tiny model runs on a CPU; small enough for a test.
TRAIN = {
    "steps": 2,
    "batch_size": 4,
    "micro_batch_size": 4,
    "resolution": 32,
    "rollout_steps": 4,
    "learning_rate": 1e-4,
    "compute_dtype": "float32",
    "guard_prompts": 2,
    "guard_noises": 2,
    "guard_steps": 3,
    "checkpoint_every": 1,
    "trackers": (),
}


class TinyRun:
    """A workspace and the folders of its artifacts; ``stage`` runs one more stage there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.workspace = folder, folder / "workspace"
        self.artifacts: dict[str, Path] = {}

    def stage(self, name, config, inputs=(), outputs=(), into=None, **given):
        stage = importlib.import_module(f"srpo.{name}.run").STAGE
        places = {output: (into or self.folder / name) / output for output in outputs}
        execute(stage, config, self.workspace, {i: self.artifacts[i] for i in inputs} | given, places)
        return places


def load_step_parts(tiny_run):
    """``(config, flux, rewards, texts)``; the transformer is a plain module with float32 parameters."""
    torch.set_num_threads(1)
    models = read_models(tiny_run.artifacts["models"], tiny_run.workspace)
    base = models["base"].folder
    transformer = FluxTransformer2DModel.from_pretrained(base / "transformer", torch_dtype=torch.float32).train()
    vae = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32)
    texts = Texts.open(
        *(tiny_run.artifacts[name] for name in ("prompts", "embeddings", "text_features")),
        ["reward"],
        models["base"].digest,
    )
    reward = Reward("reward", ImageTower.load(models["reward"].folder, torch.device("cpu")), 1.0)
    return from_mapping(Config, TRAIN, "train"), Flux(transformer, vae), [reward], texts


MADE = ("models", "prompts", "embeddings", "text_features")
WAY = (  # every stage of a run with what it takes and what it leaves, as the pipeline has them
    ("fetch_base", (), ("models",)),
    ("prepare_prompts", ("models",), ("prompts",)),
    ("cache_rewards", ("models", "prompts"), ("text_features",)),
    ("encode_prompts", ("models", "prompts"), ("embeddings",)),
    ("train", MADE, ("checkpoint", "metrics")),
    ("sample", (*MADE, "checkpoint"), ("samples",)),
    ("evaluate", ("checkpoint", "models"), ("evaluation", "report", "metrics", "summary")),
    ("export", ("models", "checkpoint", "evaluation", "prompts"), ("release", "report")),
)


def whole_run(folder: Path, configs: dict, last: str = "export") -> TinyRun:
    """The stages up to ``last`` one after the other in this process, with the settings that `configure` hands out."""
    run = TinyRun(folder)
    for name, inputs, outputs in WAY:
        samples = {"samples": (run.artifacts["samples"],)} if name in ("evaluate", "export") else {}
        run.artifacts |= run.stage(name, configs[name], inputs, outputs, **samples)
        if name == last:
            break
    return run
