"""The parameters of a run: what a user changes from run to run, and the form in the Kubeflow UI.

Everything else is a setting of one stage and goes into ``overrides``, by stage and name:
``{"train": {"margin": 0.5}}``. The defaults are the embedded run (`demo`); published settings are recipes
(``srpo_pipelines/recipes``).
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from srpo.cache_rewards.config import Config as CacheRewards
from srpo.core.contracts.config import from_mapping, nearest
from srpo.core.contracts.errors import InputError, require
from srpo.core.contracts.sources import split_weight
from srpo.encode_prompts.config import Config as EncodePrompts
from srpo.evaluate.config import Config as Evaluate
from srpo.evaluate.gates import parse, require_reward
from srpo.export.config import Config as Export
from srpo.fetch_base.config import REHEARSED
from srpo.fetch_base.config import Config as FetchBase
from srpo.prepare_prompts.config import Config as PreparePrompts
from srpo.rating_page.config import Config as RatingPage
from srpo.sample.config import Config as Sample
from srpo.train.config import Config as Train

STAGES: dict[str, type[Any]] = {
    "prepare_prompts": PreparePrompts,
    "fetch_base": FetchBase,
    "cache_rewards": CacheRewards,
    "encode_prompts": EncodePrompts,
    "train": Train,
    "sample": Sample,
    "evaluate": Evaluate,
    "rating_page": RatingPage,
    "export": Export,
}


# More than these nobody means: a slip is told before anything is made of it.
MOST = {"steps": 10**6, "batch_size": 10**5, "resolution": 2**13, "gpus": 256, "num_nodes": 10**4}
SHARDS = 131_072 // 512  # what Linux lets an argument have, by what an artifact's name, type and place take in it
RESOURCE = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"  # a name of Kubernetes' for one


def described(default: Any, description: str) -> Any:
    """A field with a default and the description that the UI and ``--help`` show."""
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: default.copy(), metadata={"description": description})
    return dataclasses.field(default=default, metadata={"description": description})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameters:
    """The parameters of the `align` pipeline, in the order of the form."""

    model: str = described(
        "tiny",
        "Base model: a catalogue name, the folder of a diffusers pipeline, or a release (s3://bucket/prefix@latest)",
    )
    reward: str = described("tiny-clip", "Reward to train on: a catalogue name or a folder, or name=weight,name=weight")
    held_out_reward: str = described("tiny-siglip", "Reward that only judges: never trained on")
    prompts: str = described(
        "tiny", "Prompt files, folders or globs, separated by commas (`a.txt=2` weighs), or `tiny`, the embedded set"
    )
    steps: int = described(30, "Optimiser steps; the effect peaks early and collapses later")
    batch_size: int = described(8, "Prompts a step, over all GPUs")
    learning_rate: float = described(3e-5, "Learning rate of AdamW")
    resolution: int = described(32, "Height and width of images in pixels, in training and in sampling")
    seed: int = described(0, "Seed of everything random in the run")
    gpus: int = described(0, "GPUs of a training pod; 0 trains on CPU")
    gpu_type: str = described(
        "nvidia.com/gpu", "Kubernetes' name of the GPUs: nvidia.com/gpu, amd.com/gpu, a MIG slice"
    )
    num_nodes: int = described(1, "Training pods, each with `gpus` GPUs; several are a Kubeflow TrainJob")
    sample_shards: int = described(2, "Pods that sample in parallel, one GPU each")
    destination: str = described("/workspace/artifacts", "Folder that releases are published in")
    workspace: str = described("/workspace", "Folder on the shared volume for results and checkpoints")
    node_selector: dict[str, Any] = described({}, "Node selector of the GPU stages (Kubernetes JSON)")
    tolerations: list[Any] = described([], "Tolerations of the GPU stages (Kubernetes JSON)")
    overrides: dict[str, Any] = described({}, "Any other setting, by stage and name (JSON)")

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "resolution"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        for name, most in MOST.items():
            require(getattr(self, name) <= most, name, getattr(self, name), f"at most {most}")
        require(self.gpus >= 0, "gpus", self.gpus, "a whole number of at least 0")
        accepted = "a resource of nodes, as nvidia.com/gpu or nvidia.com/mig-3g.40gb"
        require(bool(re.fullmatch(RESOURCE, self.gpu_type)), "gpu_type", self.gpu_type, accepted)
        require(self.num_nodes >= 1, "num_nodes", self.num_nodes, "a whole number of at least 1")
        accepted = f"a whole number from 1 to {SHARDS}: Kubeflow tells one pod of all shards in a single argument"
        require(1 <= self.sample_shards <= SHARDS, "sample_shards", self.sample_shards, accepted)
        for name, value in self.node_selector.items():
            require(isinstance(value, str), f"node_selector.{name}", value, "text: Kubernetes takes no other labels")
        unknown = sorted(set(self.overrides) - set(STAGES))
        if unknown:
            raise InputError(f"overrides name no stage {unknown[0]!r}{nearest(unknown[0], STAGES)}")


def stage_configs(parameters: Parameters) -> dict[str, dict[str, Any]]:
    """The whole configuration of every stage, checked: ``{stage: {setting: value}}``.

    Raises:
        InputError: a parameter or an override that some stage cannot take.
    """
    drawn = {"train_prompts": parameters.steps * parameters.batch_size, "seed": parameters.seed}
    device = "cuda" if parameters.gpus else "auto"
    shape = {"resolution": parameters.resolution, "seed": parameters.seed, "device": device}
    given: dict[str, dict[str, Any]] = {
        "prepare_prompts": {"sources": [source.strip() for source in parameters.prompts.split(",")]},
        "fetch_base": {
            "model": parameters.model,
            "reward": parameters.reward,
            "held_out_reward": parameters.held_out_reward,
        },
        "cache_rewards": drawn,
        "encode_prompts": drawn,
        "train": shape
        | {
            "steps": parameters.steps,
            "batch_size": parameters.batch_size,
            "learning_rate": parameters.learning_rate,
            **placement(parameters),
        },
        "sample": {"seed": parameters.seed, "device": device},
        "evaluate": {"seed": parameters.seed},
        "rating_page": {"seed": parameters.seed},
        "export": {"destination": parameters.destination},
    }
    configs = {}
    for stage, config in STAGES.items():
        override = parameters.overrides.get(stage, {})
        if not isinstance(override, Mapping):
            raise InputError(f"overrides.{stage} is {override!r}: it must be a mapping of settings")
        configs[stage] = dataclasses.asdict(from_mapping(config, given[stage] | dict(override), stage))
    ranks, gpus = configs["train"]["processes"], parameters.gpus * parameters.num_nodes
    if gpus and ranks != gpus:
        raise InputError(
            f"train.processes is {ranks} with gpus {parameters.gpus} and num_nodes {parameters.num_nodes}: it must be "
            f"{gpus}, the number of GPUs (leave it out, or set both)"
        )
    require(
        configs["train"]["nodes"] == parameters.num_nodes, "train.nodes", configs["train"]["nodes"], "left to num_nodes"
    )
    sources = [split_weight(source)[0] for source in configs["prepare_prompts"]["sources"]]
    for name in configs["export"]["prompt_licences"]:
        if name not in sources:
            raise InputError(f"export.prompt_licences names no source of prompts {name!r}{nearest(name, sources)}")
    models = FetchBase(**configs["fetch_base"])
    for condition in configs["evaluate"]["gates"]:
        require_reward(parse(condition), len(models.weighted_rewards()), models.held_out_reward)
    # Judged at the size that was trained, also where train.resolution was overridden.
    configs["sample"]["resolution"] = configs["sample"]["resolution"] or configs["train"]["resolution"]
    configs["sample"]["shards"] = parameters.sample_shards
    # Two latents a side make one token: 8 pixels of the tiny model, 16 of the others: `fetch_base` knows which.
    for stage in ("train", "sample"):
        size = configs[stage]["resolution"]
        require(size % 8 == 0, f"{stage}.resolution", size, "a multiple of 8, and of 16 for FLUX.1 and Qwen-Image")
    rehearsal = {f"{stage}.{name}": configs[stage][name] for stage, names in REHEARSED.items() for name in names}
    configs["fetch_base"]["rehearsal"] = FetchBase(**configs["fetch_base"] | {"rehearsal": rehearsal}).rehearsal
    return configs


def placement(parameters: Parameters) -> dict[str, Any]:
    """The settings of `train` that say how many ranks there are and, with several nodes, where their pods may stand."""
    nodes = parameters.num_nodes
    given: dict[str, Any] = {"processes": parameters.gpus * nodes} if parameters.gpus else {}
    if nodes > 1:
        given = {"processes": nodes, "nodes": nodes} | given
        given |= {name: getattr(parameters, name) for name in ("gpu_type", "node_selector", "tolerations")}
    return given
