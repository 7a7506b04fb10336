"""What a release says about how it was made."""

import json
import shutil

import pytest
from test_export import Run

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
    assert manifest["base_model"] == {"name": "org/FLUX.1-dev", "digest": folder_digest(finished.base)}
    assert {role: entry["licence"] for role, entry in manifest["licences"].items()} == {
        "base": "FLUX.1 [dev] Non-Commercial",
        "reward": "Apache-2.0",
        "held_out": "Apache-2.0",
    }
    assert manifest["seeds"] == {"train": 7, "evaluate": 7}
    assert manifest["config"]["train"]["learning_rate"] == 5e-6
    assert manifest["prompts"] == {"key": "key-prompts"}
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
