"""Earlier releases beside base and tuned model: found by address, checked, sampled from the same noise."""

import json
import shutil
import uuid

import moto
import numpy as np
import pytest
from sampling import pixels_of, rows_of, sample

from srpo.core.contracts.errors import InputError
from srpo.core.storage.models import read_models
from srpo.core.storage.releases import Item, move_channel, publish
from srpo.core.storage.s3 import client
from srpo.sample.config import Config
from srpo.sample.run import STAGE

FEW = {"max_prompts": 2, "noises": 1, "steps": 2}


def release(tiny_run, weights, destination, name, digest=None):
    """A release as `export` publishes it, with the transformer of the checkpoint ``weights``."""
    base = read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"]
    transformer = tiny_run.workspace / json.loads((weights / "checkpoint.json").read_text())["weights"]
    items = [Item.of_file(f"model/transformer/{file.name}", file) for file in sorted(transformer.iterdir())]
    items.append(Item.of_text("README.md", "a release"))
    return publish(destination, name, items, {"base_model": {"name": base.name, "digest": digest or base.digest}})


def test_a_release_is_sampled_beside_base_and_tuned(tiny_run, unchanged, changed, tmp_path):
    """It has the weights that the tuned model has here, so its images and scores are the tuned model's."""
    folder = release(tiny_run, changed, tmp_path, "earlier-1")
    samples = sample(tiny_run, changed, tmp_path / "0", compare=(str(folder),), **FEW)
    rows = rows_of(samples)
    assert {model for _, _, model in rows} == {"base", "tuned", "earlier-1"}
    for (prompt_id, noise, model), row in rows.items():
        if model == "earlier-1":
            tuned = rows[prompt_id, noise, "tuned"]
            assert np.array_equal(pixels_of(row), pixels_of(tuned))
            assert row["scores"] == tuned["scores"]
            assert not np.array_equal(pixels_of(row), pixels_of(rows[prompt_id, noise, "base"]))
    plan = json.loads((samples / "plan.json").read_text())
    assert list(plan["models"]) == ["base", "earlier-1", "tuned"]
    page = (samples.parent / "report.html").read_text()
    assert page.count('alt="earlier-1"') == 2


def test_a_release_that_cannot_be_compared_is_refused_by_name(tiny_run, unchanged, tmp_path):
    good = release(tiny_run, unchanged, tmp_path / "good", "r")
    other = release(tiny_run, unchanged, tmp_path / "other", "r", digest="0" * 64)
    damaged, cut = tmp_path / "damaged", tmp_path / "cut"
    for copy in (damaged, cut):
        shutil.copytree(good, copy)
    weights = damaged / "model/transformer/diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (cut / "model/transformer/config.json").unlink()
    for compare, message in (
        ((str(tmp_path / "none"),), "none.*which is no release"),
        ((str(other),), "must be of this run's base"),
        ((str(damaged),), "damaged.*is not what the release was published with"),
        ((str(cut),), "is not what the release was published with"),
        ((str(good), f"file://{good}"), "the release 'r' twice"),
    ):
        with pytest.raises(InputError, match=message):
            sample(tiny_run, unchanged, tmp_path / uuid.uuid4().hex, compare=compare, **FEW)
    with pytest.raises(InputError, match="compare"):
        Config(compare=("a", "a"))


def test_another_release_at_the_same_address_is_another_result(tiny_run, unchanged, changed, tmp_path):
    """The content key follows the manifest, not the address."""
    config = Config(compare=(str(tmp_path / "releases" / "r"),))
    keys = []
    for weights in (unchanged, changed):
        release(tiny_run, weights, tmp_path, "r")
        keys.append(STAGE.fingerprint(config))
        shutil.rmtree(tmp_path / "releases")
    assert keys[0] != keys[1]
    assert STAGE.fingerprint(Config()) is None
    with pytest.raises(InputError, match="is no release"):
        STAGE.fingerprint(config)


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        client().create_bucket(Bucket="models")
        yield "s3://models/tiny"


def test_a_release_in_s3_comes_into_the_workspace_once(tiny_run, unchanged, changed, tmp_path, bucket):
    """By its channel; a damaged copy is made again, a damaged object is refused."""
    release(tiny_run, changed, bucket, "earlier-1")
    move_channel(bucket, "latest", "earlier-1")
    config = FEW | {"compare": (f"{bucket}@latest",)}
    assert STAGE.fingerprint(Config(**config)) == STAGE.fingerprint(Config(compare=(f"{bucket}/releases/earlier-1",)))
    first = rows_of(sample(tiny_run, changed, tmp_path / "0", **config))
    assert {model for _, _, model in first} == {"base", "tuned", "earlier-1"}
    (copy,) = (tiny_run.workspace / "releases").rglob("*.safetensors")
    whole = copy.read_bytes()
    copy.write_bytes(b"cut")
    assert rows_of(sample(tiny_run, changed, tmp_path / "1", **config)) == first
    assert copy.read_bytes() == whole
    copy.unlink()
    client().put_object(Bucket="models", Key=f"tiny/releases/earlier-1/model/transformer/{copy.name}", Body=b"other")
    with pytest.raises(InputError, match="SHA-256"):
        sample(tiny_run, changed, tmp_path / "2", **config)
    assert not copy.exists()


def test_a_moved_channel_is_another_result(tiny_run, unchanged, changed, bucket):
    keys = []
    for weights, name in ((unchanged, "one"), (changed, "two")):
        release(tiny_run, weights, bucket, name)
        move_channel(bucket, "latest", name)
        keys.append(STAGE.fingerprint(Config(compare=(f"{bucket}@latest",))))
    assert keys[0] != keys[1]
