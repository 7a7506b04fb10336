"""Whatever a stage takes from an earlier one is known by its hash: after a flip the producer runs again, by itself."""

import json
import shutil

import pytest
from tiny_runs import TRAIN, whole_run

from srpo.configure.parameters import Parameters, stage_configs
from srpo.core.contracts.errors import InputError
from srpo.sample.run import STAGE as SAMPLE

SMALL = {
    "prepare_prompts": {"held_out_prompts": 4, "train_prompts": 8},
    "train": {k: v for k, v in TRAIN.items() if k not in ("steps", "batch_size", "resolution", "learning_rate")},
    "sample": {"steps": 2, "max_prompts": 3, "noises": 1, "compute_dtype": "float32"},
    "evaluate": {"resamples": 200, "frechet_resamples": 100},
}
GIVEN = {"steps": 1, "batch_size": 4, "learning_rate": 1e-4, "resolution": 32, "sample_shards": 1}


def configs_for(place, **overrides):
    given = GIVEN | {"overrides": SMALL | overrides, "destination": str(place / "out")}
    return stage_configs(Parameters(**given))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run, and the content of its release."""
    place = tmp_path_factory.mktemp("finished")
    run = whole_run(place, configs_for(place))
    return place, content_of(run)


def content_of(run):
    """Every file of the release but its page of contents, by hash."""
    release = json.loads((run.artifacts["release"] / "release.json").read_text())["path"]
    manifest = json.loads((run.workspace / release / "manifest.json").read_text())
    return {file["path"]: file["sha256"] for file in manifest["files"]}


def flip(path):
    """Another byte in the middle of a file; whoever shares it by a hard link has it too."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


KINDS = {
    "weights": ("state/train/*/weights-*/*.safetensors", "train"),
    "prompts": ("stages/prepare_prompts/*/prompts/prompts.parquet", "prepare_prompts"),
    "embeddings": ("stages/encode_prompts/*/embeddings/embeddings.parquet/*.parquet", "encode_prompts"),
    "images": ("stages/sample/*/samples/images/*.png", "sample"),
    "json": ("stages/train/*/checkpoint/checkpoint.json", "train"),
    "page": ("stages/evaluate/*/report.html", "evaluate"),
    "cache": ("models/*/transformer/*.safetensors", "fetch_base"),
}


@pytest.mark.real
@pytest.mark.parametrize("kind", KINDS)
def test_after_a_flip_the_producer_runs_again_and_the_release_is_the_same(finished, tmp_path, capfd, kind):
    place, content = finished
    shutil.copytree(place, tmp_path / "run", symlinks=True)
    pattern, producer = KINDS[kind]
    found = sorted((tmp_path / "run" / "workspace").glob(pattern))
    flip(found[0])
    capfd.readouterr()
    # Another setting of the evaluation, so that it cannot be found as it is.
    resamples = 200 if producer == "evaluate" else 201
    run = whole_run(tmp_path / "run", configs_for(place, evaluate=SMALL["evaluate"] | {"resamples": resamples}))
    shown = capfd.readouterr().out
    again = [line for line in shown.splitlines() if "it is made again" in line]
    assert len([line for line in again if f"srpo: {producer}: a result is there" in line]) == 1, shown
    after = content_of(run)
    for name in content:
        if name.startswith(("model/", "samples/")):
            assert after[name] == content[name], name


@pytest.mark.real
def test_a_stage_refuses_what_was_damaged_since_its_producer_ran(finished, tmp_path):
    """Within one run: no image is made from weights that are not the trained ones."""
    place, _ = finished
    shutil.copytree(place, tmp_path / "run", symlinks=True)
    workspace = tmp_path / "run" / "workspace"
    (weights,) = workspace.glob(KINDS["weights"][0])
    run = whole_run(tmp_path / "run", configs_for(place), last="train")
    flip(weights)
    config = configs_for(place)["sample"] | {"seed": 5}
    inputs = ("models", "prompts", "embeddings", "text_features", "checkpoint")
    with pytest.raises(InputError, match=r"weights-000001/diffusion_pytorch_model.safetensors is missing or not what"):
        run.stage("sample", config, inputs, ("samples",))
    assert SAMPLE.name == "sample"
    flip(weights)
    flip(run.artifacts["prompts"] / "prompts.parquet")
    with pytest.raises(InputError, match=r"input prompts: .*prompts"):
        run.stage("sample", config, inputs, ("samples",))
