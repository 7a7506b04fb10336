"""Whole runs by the settings of each recipe, but for its size: on small models of the same classes, to every format."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel, FluxPipeline, QwenImagePipeline
from qwen_models import small_pipeline
from tiny_runs import whole_run

from srpo.configure.parameters import stage_configs
from srpo_pipelines.settings import parameters, recipe_names

# What makes a run of a recipe small: models, numbers of prompts and images, steps. Nothing of how it is computed.
SMALL = (
    *("reward=tiny-clip", "held_out_reward=tiny-siglip", "prompts=tiny", "steps=1", "batch_size=4", "gpus=0"),
    *("resolution=32", "sample_shards=1", "prepare_prompts.held_out_prompts=4", "train.rollout_steps=3"),
    *("train.guard_prompts=2", "train.guard_noises=1", "train.guard_steps=2", "train.guard_tolerance=2"),
    *("train.guard_drift=1e9", "sample.resolution=48", "sample.steps=2", "sample.max_prompts=2", "sample.noises=2"),
    *("evaluate.resamples=200", "evaluate.frechet_resamples=100", "evaluate.gates=[]"),
)


@pytest.mark.real
@pytest.mark.parametrize("recipe", [name for name in recipe_names() if name != "demo"])
def test_a_run_by_the_recipe_ends_in_a_release_of_every_format(recipe, tmp_path):
    given = parameters(recipe)
    qwen = "qwen" in given.model.lower()
    if qwen:
        small_pipeline().save_pretrained(tmp_path / "qwen")
    sets = [
        *SMALL,
        f"model={tmp_path / 'qwen' if qwen else 'tiny'}",
        f"destination={tmp_path / 'out'}",
        f"train.processes={min(2, given.gpus)}",
        f"train.learning_rate={given.learning_rate}",
        "export.formats=[diffusers, lora]" if qwen else "export.formats=[diffusers, lora, original-bf16, original-fp8]",
    ]
    configs = stage_configs(parameters(recipe, sets))
    assert configs["train"]["compute_dtype"] == configs["sample"]["compute_dtype"] == "bfloat16"
    run = whole_run(tmp_path, configs)

    release = Path(json.loads((run.artifacts["release"] / "release.json").read_text())["path"])
    pipeline = (QwenImagePipeline if qwen else FluxPipeline).from_pretrained(
        release / "model", torch_dtype=torch.bfloat16
    )
    tuned = AutoModel.from_pretrained(str(release / "model" / "transformer"), torch_dtype=torch.bfloat16)
    assert type(tuned) is type(pipeline.transformer)
    assert (release / "lora").is_dir() == bool(configs["train"]["lora_rank"])
    assert {path.name for path in (release / "single_file").glob("*")} == (
        set() if qwen else {"flux-bf16.safetensors", "flux-fp8-scaled.safetensors"}
    )
