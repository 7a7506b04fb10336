"""The tiny world's artifacts, made by the stages themselves, and a judge of what a model draws: for the benchmarks."""

import importlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from safetensors.numpy import load_file

from srpo.core.backbones.flux import Flux
from srpo.core.contracts.config import from_mapping
from srpo.core.contracts.prompts import read_prompts
from srpo.core.contracts.tensors import EmbeddingsReader
from srpo.core.execution.quiet import quiet
from srpo.core.execution.stage import execute
from srpo.core.rewards.dual_encoder import ImageTower
from srpo.core.storage.models import read_models
from srpo.sample.config import Config as SampleConfig
from srpo.sample.plan import blocks_of
from srpo.sample.run import from_images, sample_block, to_images
from srpo.sample.scorers import Scorers
from srpo.tiny.frechet import frechet_distance
from srpo.train.batches import Texts
from srpo.train.config import Config
from srpo.train.step import Reward

CPU = torch.device("cpu")


class TinyWorld:
    """Artifacts below ``folder`` (made once), and the models of a training run on one process."""

    def __init__(self, folder: Path, seed: int, prompts: int) -> None:
        quiet()
        torch.set_num_threads(1)
        self.workspace, out = folder / "workspace", folder / f"artifacts-{seed}"
        drawn = {"train_prompts": prompts, "seed": seed}
        self.artifacts: dict[str, Path] = {}
        for name, config, inputs, output in (
            ("prepare_prompts", {}, (), "prompts"),
            ("fetch_base", {}, (), "models"),
            ("cache_rewards", drawn, ("models", "prompts"), "text_features"),
            ("encode_prompts", drawn | {"dtype": "float32"}, ("models", "prompts"), "embeddings"),
        ):
            stage = importlib.import_module(f"srpo.{name}.run").STAGE
            given = {key: self.artifacts[key] for key in inputs}
            execute(stage, config, self.workspace, given, {output: out / output})
            self.artifacts[output] = out / output
        self.models = read_models(self.artifacts["models"], self.workspace)
        self.base = self.models["base"].folder
        files = [self.artifacts[name] for name in ("prompts", "embeddings", "text_features")]
        self.texts = Texts.open(*files, ["reward"], self.models["base"].digest)
        self.reward = Reward("reward", ImageTower.load(self.models["reward"].folder, CPU), 1.0)
        self.scorers = Scorers.load(self.models, self.artifacts["text_features"], CPU)
        self.reader = EmbeddingsReader(self.artifacts["embeddings"] / "embeddings.parquet")
        self.reference = load_file(self.models["judge"].folder / "reference.safetensors")

    def flux(self, weights: Path | None = None) -> Flux:
        """Transformer (float32, trainable) and VAE."""
        source = weights or self.base / "transformer"
        transformer = FluxTransformer2DModel.from_pretrained(source, torch_dtype=torch.float32).train()
        return Flux(transformer, AutoencoderKL.from_pretrained(self.base / "vae", torch_dtype=torch.float32))

    def judge(self, flux: Flux, seed: int, noises: int = 1, steps: int = 25) -> dict[str, float]:
        """Means over the 64 held-out prompts, the same noise for every model of a seed."""
        config = SampleConfig(
            resolution=32, steps=steps, noises=noises, seed=seed, compute_dtype="float32", block_size=16
        )
        scores: dict[str, list[torch.Tensor]] = {}
        features = []
        for block in blocks_of(config, read_prompts(self.artifacts["prompts"])):
            images = to_images(sample_block(config, flux, self.reader, block))
            values, seen = self.scorers(from_images(images, CPU), block.prompts)
            features.append(seen)
            for name, value in values.items():
                scores.setdefault(name, []).append(value)
        means = {name: float(torch.cat(value).mean()) for name, value in scores.items()}
        rows = np.concatenate(features)
        covariance = next(value for name, value in self.reference.items() if name != "mean")
        distance = frechet_distance(rows.mean(0), np.cov(rows.T), self.reference["mean"], covariance)
        return means | {"frechet": float(distance)}


def settings(**changes: Any) -> Config:
    """The published settings on the tiny model: learning rate 3e-5 and batch 8 unless changed."""
    tiny = {"batch_size": 8, "micro_batch_size": 8, "resolution": 32, "learning_rate": 3e-5}
    return from_mapping(Config, tiny | {"compute_dtype": "float32"} | changes, "train")


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    names = ("torch", "diffusers", "transformers", "numpy")
    return {"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()} | {
        name: metadata.version(name) for name in names
    }
