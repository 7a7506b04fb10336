"""Training starts from what is sampled: with the learning rate 0 all images of the tuned model are the base's."""

import json
import shutil

import pytest
from diffusers import FluxTransformer2DModel
from odd_folders import BASE, CASES, odd_folder
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_runs import TRAIN, whole_run

from srpo.configure.parameters import Parameters, stage_configs
from srpo.core.execution.stage import whole_artifact
from srpo.core.storage.weights import weight_files
from srpo.export.proof import check_transformer

SMALL = {
    "prepare_prompts": {"held_out_prompts": 4, "train_prompts": 8},
    "train": TRAIN | {"steps": 1, "learning_rate": 0.0, "compute_dtype": "bfloat16", "guard_noises": 1},
    "sample": {"steps": 2, "max_prompts": 3, "noises": 1, "compute_dtype": "bfloat16"},
}


def images_of(base, tmp_path):
    """The images of base and tuned model by prompt, and the tuned transformer's folder."""
    overrides = {name: dict(values) for name, values in SMALL.items()}
    for name in ("steps", "batch_size", "resolution", "learning_rate"):
        overrides["train"].pop(name)
    given = {"steps": 1, "batch_size": 4, "learning_rate": 0.0, "resolution": 32, "sample_shards": 1}
    configs = stage_configs(Parameters(model=str(base), overrides=overrides, **given))
    run = whole_run(tmp_path, configs, last="sample")
    drawn = {}
    for image in sorted((whole_artifact(run.artifacts["samples"], run.workspace) / "images").glob("*.png")):
        where, _, model = image.stem.rpartition("-")
        with Image.open(image) as opened:  # beside the pixels it says which weights drew it
            drawn.setdefault(where, {})[model] = opened.tobytes()
    checkpoint = json.loads((run.artifacts["checkpoint"] / "checkpoint.json").read_text())
    return drawn, run.workspace / checkpoint["weights"]


@pytest.mark.real
@pytest.mark.parametrize("case", [*CASES, "a tensor too many"])
def test_after_training_with_the_learning_rate_0_all_images_are_equal(tmp_path, case):
    base = tmp_path / "base"
    shutil.copytree(BASE, base, ignore=shutil.ignore_patterns("transformer", "text_encoder"))
    odd_folder("text_encoder", "model", "single" if case == "a tensor too many" else case, base / "text_encoder")
    odd_folder("transformer", "diffusion_pytorch_model", CASES[0] if "many" in case else case, base / "transformer")
    if case == "a tensor too many":
        file = base / "transformer" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(file)
        save_file(tensors | {"something.extra": tensors["proj_out.bias"] * 2}, file, {"format": "pt"})
    drawn, weights = images_of(base, tmp_path)
    assert len(drawn) >= 3
    assert all(models["base"] == models["tuned"] for models in drawn.values())
    assert len({models["base"] for models in drawn.values()}) == len(drawn), "images of other prompts must differ"
    FluxTransformer2DModel.from_pretrained(weights)
    check_transformer(weight_files(base / "transformer"), weight_files(weights))  # what the export holds it against
    extra = {name for path in weights.glob("*.safetensors") for name in load_file(path) if "extra" in name}
    assert extra == ({"something.extra"} if case == "a tensor too many" else set())
