"""Ranks that make what an export starts from: for each case one step of the trainer's own parts, and its weights."""

from pathlib import Path
from typing import Any

import torch
from tiny_runs import TRAIN
from writing_ranks import CPU, join

from srpo.core.backbones.load import backbone_of
from srpo.core.contracts.config import from_mapping
from srpo.train import sharding
from srpo.train.background import writing
from srpo.train.config import Config
from srpo.train.gradients import GradientSums


def train_all(rank: int, ranks: int, port: int, cases: dict[str, tuple[Path, dict[str, Any]]], folder: Path) -> None:
    """One step of each case (its base pipeline and settings); the weights come to lie in ``folder/NAME/weights``."""
    join(rank, ranks, port)
    with sharding.process_group(CPU), writing(CPU) as writer:
        for name, (base, settings) in cases.items():
            config = from_mapping(Config, TRAIN | {"learning_rate": 0.01} | settings, "train")
            model = sharding.sharded_transformer(config, backbone_of(base), base / "transformer", CPU)
            trained = sharding.trained_parameters(model)
            optimizer = sharding.make_optimizer(config, model)
            GradientSums(trained)
            for parameter in trained:
                parameter.grad = torch.ones_like(parameter.detach(), dtype=torch.float32)
            optimizer.step()
            sharding.save_weights(writer, config, model, folder / name / "weights", base / "transformer")
            writer.wait()
