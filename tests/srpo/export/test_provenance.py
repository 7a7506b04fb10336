"""What a release says about how it was made."""

import json
import shutil

import pytest
from test_export import Run
from tiny_runs import TinyRun

from srpo.core.execution.stage import read_manifest
from srpo.core.storage import releases
from srpo.core.storage.files import write_json
from srpo.core.storage.models import folder_digest


@pytest.fixture
def finished(tmp_path):
    return Run(tmp_path)


def test_the_manifest_says_how_it_was_made(finished, monkeypatch):
    monkeypatch.setenv("SRPO_GIT_COMMIT", "abc123")
    result, _ = finished.export()
    manifest = releases.read_release(finished.destination, result["id"])
    assert manifest["base_model"] == {
        "name": "org/FLUX.1-dev",
        "digest": folder_digest(finished.base),
        "source": "",
        "revision": "",
    }
    assert {role: entry["licence"] for role, entry in manifest["licences"].items()} == {
        "base": "FLUX.1 [dev] Non-Commercial",
        "reward": "Apache-2.0",
        "held_out": "Apache-2.0",
    }
    assert manifest["seeds"] == {"train": 7, "evaluate": 7, "rating_page": 7}
    assert manifest["config"]["train"]["learning_rate"] == 5e-6
    assert manifest["prompts"] == {"key": "key-prompts", "sha256": None}
    assert manifest["parent"] is None
    assert manifest["git_commit"] == "abc123"
    assert manifest["stages"]["train"]["versions"] == {"torch": "2.13"}
    assert manifest["evaluation"]["after"] == finished.evaluation["after"]
    assert manifest["checkpoint"]["step"] == 20
    assert str(finished.workspace) not in json.dumps(manifest)


def test_a_base_in_a_cache_outside_of_the_workspace_is_released(finished, tmp_path):
    """As with SRPO_MODEL_CACHE."""
    here, _ = finished.export()
    inputs = finished.write()
    stored = json.loads((inputs["models"] / "models.json").read_text())
    stored["base"]["path"] = str(shutil.copytree(finished.base, tmp_path / "cache"))
    write_json(inputs["models"] / "models.json", stored)
    finished.write = lambda: inputs
    assert finished.export()[0] == here


def change(path, **values):
    """Put ``values`` into a JSON file."""
    write_json(path, json.loads(path.read_text()) | values)


PARENT = {
    "id": "FLUX.1-dev-srpo-0123456789ab",
    "digest": "0" * 64,
    "uri": "s3://models/flux/releases/FLUX.1-dev-srpo-0123456789ab",
    "licences": {"reward": {"name": "an earlier <reward>", "licence": "MIT"}},
    "data": [{"name": "earlier.txt", "licence": "CC-BY-4.0"}],
    "earlier": [{"name": "the first | reward", "licence": "Apache-2.0"}],
}


def test_a_release_names_its_parent_and_passes_licences_on(finished):
    alone, _ = finished.export()
    inputs = finished.write()
    models = json.loads((inputs["models"] / "models.json").read_text())
    said = {"commercial_use": False, "source": "hf://org/flux@abc", "revision": "abc", "release": PARENT}
    change(inputs["models"] / "models.json", base=models["base"] | said)
    hashes = [{"path": "prompts.parquet", "size": 1, "sha256": "f" * 64}]
    change(inputs["prompts"] / "manifest.json", config={"sources": ["a.txt=2", "tiny", "b=c.txt"]}, files=hashes)
    finished.write = lambda: inputs
    result, report = finished.export(prompt_licences={"a.txt": "CC0-1.0"})
    assert result["id"] != alone["id"]
    manifest = releases.read_release(finished.destination, result["id"])
    assert manifest["parent"] == PARENT
    assert manifest["base_model"]["revision"] == "abc"
    assert manifest["prompts"]["sha256"] == "f" * 64
    base = manifest["licences"]["base"]
    assert (base["commercial_use"], base["source"]) == (False, "hf://org/flux@abc")
    assert manifest["data"] == [
        {"name": "a.txt", "licence": "CC0-1.0"},
        {"name": "tiny", "licence": "Apache-2.0"},
        {"name": "b=c.txt", "licence": "not stated"},
    ]
    card = (finished.destination / "releases" / result["id"] / "README.md").read_text()
    assert "| prompts | a.txt | CC0-1.0 |" in card
    assert r"| base | org/FLUX.1-dev | FLUX.1 \[dev\] Non-Commercial | not allowed | hf://org/flux@abc |" in card
    assert "release FLUX.1-dev-srpo-0123456789ab" in card
    assert r"| reward | an earlier &lt;reward\> | MIT |" in card
    assert r"| in the releases before | the first \| reward | Apache-2.0 |" in card
    assert "<td>CC0-1.0</td>" in report
    assert "<td>not allowed</td>" in report


def test_the_images_are_those_that_the_stages_ran_in(finished, monkeypatch):
    """A stage whose result was found finished ran in the image of that time."""
    image = "registry.example.org/srpo-{}@sha256:" + "1" * 64
    inputs = finished.write()
    change(inputs["checkpoint"] / "manifest.json", image=image.format("gpu"))
    finished.write = lambda: inputs
    result, _ = finished.export()
    manifest = releases.read_release(finished.destination, result["id"])
    assert manifest["images"] == {
        "export": None,
        "train": image.format("gpu"),
        **dict.fromkeys(("fetch_base", "prepare_prompts", "evaluate", "sample", "rating_page")),
    }
    monkeypatch.setenv("SRPO_IMAGE", image.format("cpu"))
    monkeypatch.setenv("SRPO_GIT_COMMIT", "abc")
    there, _ = finished.export(finished.destination / "other")
    assert there["id"] == result["id"], "the same model in rebuilt images is the same release"
    other = releases.read_release(finished.destination / "other", result["id"])
    assert other["images"]["export"] == image.format("cpu")


IN_AN_IMAGE = {"SRPO_IMAGE": "r/i@sha256:1", "SRPO_GIT_COMMIT": "unknown"}


@pytest.mark.parametrize(
    ("environment", "recorded"),
    [
        ({}, None),
        (IN_AN_IMAGE, "r/i@sha256:1"),
        # As Kubeflow's local runner leaves it, which sets what the package sets: by itself, and from `srpo run`.
        ({"SRPO_IMAGE": "r/i@sha256:1"}, None),
        (IN_AN_IMAGE | {"SRPO_RUN_RECORD": "/dev/null"}, None),
    ],
)
def test_an_artifact_says_which_image_it_was_made_in_and_claims_none_otherwise(
    tmp_path, monkeypatch, environment, recorded
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    made = TinyRun(tmp_path).stage("prepare_prompts", {}, (), ("prompts",))["prompts"]
    assert read_manifest(made)["image"] == recorded


def test_the_settings_of_earlier_stages_are_found_by_their_keys(finished):
    """Embeddings and text features are no inputs of an export; their stages' settings belong to the release."""
    alone, _ = finished.export()
    inputs = finished.write()
    change(inputs["checkpoint"] / "manifest.json", inputs={"text_features": "k1", "prompts": "key-prompts"})
    finished.write = lambda: inputs
    made = {
        "schema": "srpo.artifact/1",
        "artifact": "text_features",
        "stage": "cache_rewards",
        "key": "k1",
        "files": [],
    }
    words = {"positive_words": ["Real"], "seed": 3}
    folder = finished.workspace / "stages/cache_rewards/k1/text_features"
    write_json(folder / "manifest.json", made | {"config": words, "code": "c", "versions": {}})
    (finished.destination / "releases" / alone["id"]).rename(finished.destination / "aside")
    result, _ = finished.export()
    assert result["id"] == alone["id"], "that the workspace still has them is nothing of the model"
    manifest = releases.read_release(finished.destination, result["id"])
    assert manifest["config"]["cache_rewards"] == words
    assert manifest["seeds"]["cache_rewards"] == 3
    assert manifest["stages"]["cache_rewards"]["key"] == "k1"
    assert manifest["config"]["export"]["sample_prompts"] == 4
    assert "destination" not in manifest["config"]["export"]
