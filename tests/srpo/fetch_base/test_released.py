"""A release as the base of a run: the one that the channel means now, verified, with its licences."""

import json

import boto3
import moto
import pytest
from tiny_runs import TinyRun

from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import read_manifest
from srpo.core.storage.models import read_models
from srpo.core.storage.releases import Item, move_channel, publish
from srpo.core.storage.stores import open_store
from srpo.fetch_base import run as fetch_base
from srpo.fetch_base.catalogue import find
from srpo.fetch_base.config import Config

BASE = find("base", "tiny").folder
LICENCES = {
    "base": {"name": "tiny", "digest": "d", "licence": "Some-Licence", "commercial_use": False},
    "judge": {"name": "tiny-judge", "digest": "d", "licence": "Apache-2.0"},
}


def publish_tiny(destination, release, **manifest):
    """A release of the tiny pipeline; ``manifest`` makes each another one."""
    items = [
        Item.of_file(f"model/{path.relative_to(BASE).as_posix()}", path) for path in BASE.rglob("*") if path.is_file()
    ]
    given = {"licences": LICENCES, "formats": ["diffusers"], "data": [{"name": "set", "licence": "CC0-1.0"}]}
    return publish(destination, release, items, given | manifest)


@pytest.fixture(autouse=True)
def online(monkeypatch):
    """Another test's stage may have set it for this process."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        boto3.client("s3").create_bucket(Bucket="models")
        yield "s3://models/tiny"


@pytest.fixture(params=["folder", "s3"])
def destination(request, tmp_path):
    """Two releases, `latest` means the first."""
    place = request.getfixturevalue("bucket") if request.param == "s3" else str(tmp_path / "out")
    publish_tiny(place, "tiny-srpo-000000000001")
    publish_tiny(place, "tiny-srpo-000000000002", note="the same weights")
    move_channel(place, "latest", "tiny-srpo-000000000001")
    return place


def fetch(folder, model, **config):
    """Key of the result and the models of a run on ``model``."""
    run = TinyRun(folder)
    models = run.stage("fetch_base", {"model": model} | config, (), ("models", "report"))["models"]
    return read_manifest(models)["key"], read_models(models, run.workspace)


def test_the_channel_is_followed_and_a_move_is_never_swallowed(destination, tmp_path):
    first, models = fetch(tmp_path / "run", f"{destination}@latest")
    assert models["base"].name == models["base"].release["id"] == "tiny-srpo-000000000001"
    assert fetch(tmp_path / "run", f"{destination}@latest")[0] == first
    # A destination alone means `latest`.
    assert fetch(tmp_path / "run", destination)[1]["base"].release["id"] == "tiny-srpo-000000000001"
    move_channel(destination, "latest", "tiny-srpo-000000000002")
    second, moved = fetch(tmp_path / "run", f"{destination}@latest")
    assert moved["base"].release["id"] == "tiny-srpo-000000000002"
    assert second != first, "the same weights under another id are another base"
    move_channel(destination, "latest", "tiny-srpo-000000000001")
    assert fetch(tmp_path / "run", f"{destination}@latest")[0] == first


def test_what_a_release_passes_on(destination, tmp_path):
    _, models = fetch(tmp_path / "run", f"{destination}@latest")
    base = models["base"]
    assert (base.licence, base.commercial_use) == ("Some-Licence", False)
    assert base.release["licences"] == LICENCES
    assert base.release["data"] == [{"name": "set", "licence": "CC0-1.0"}]
    assert base.source.startswith("s3://models/tiny/releases/" if "://" in destination else f"the release {base.name}")
    assert base.release["uri"] == (f"{destination}/releases/{base.name}" if "://" in destination else None)
    # It is still the tiny model, so its independent judge goes on judging it.
    assert models["judge"].name == "tiny-judge"
    assert (base.folder / "transformer/config.json").read_bytes() == (BASE / "transformer/config.json").read_bytes()


def test_the_release_that_was_looked_up_is_the_one_that_is_fetched(destination, tmp_path, monkeypatch):
    """The channel moves between the key and the work: the result under that key must hold what the key says."""
    lookup = fetch_base.lookup

    def moved_after(config, workspace):
        found = lookup(config, workspace)
        move_channel(destination, "latest", "tiny-srpo-000000000002")
        return found

    monkeypatch.setattr(
        fetch_base, "STAGE", fetch_base.STAGE.__class__(**vars(fetch_base.STAGE) | {"lookup": moved_after})
    )
    _, models = fetch(tmp_path / "run", f"{destination}@latest")
    assert models["base"].release["id"] == "tiny-srpo-000000000001"


def test_a_release_without_a_pipeline_is_refused_with_what_it_holds(destination):
    items = [Item.of_text("lora/pytorch_lora_weights.safetensors", "x")]
    publish(destination, "adapter", items, {"formats": ["lora", "original-bf16"]})
    with pytest.raises(InputError, match=r"releases/adapter holds lora, original-bf16: a base must .*'diffusers'"):
        fetch_base.find_sources(Config(model=f"{destination}@adapter"))


@pytest.mark.parametrize("which", ["nobody", "candidate"])
def test_what_is_not_there_is_named_with_what_is(destination, which):
    with pytest.raises(InputError, match=rf"has no '{which}': it must be a channel \(latest\)"):
        fetch_base.find_sources(Config(model=f"{destination}@{which}"))


def test_a_flipped_byte_in_the_release_is_refused(destination, tmp_path):
    name = "releases/tiny-srpo-000000000001/model/vae/diffusion_pytorch_model.safetensors"
    data = bytearray((BASE / "vae/diffusion_pytorch_model.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    if "://" in destination:
        boto3.client("s3").put_object(Bucket="models", Key=f"tiny/{name}", Body=bytes(data))
    else:
        (tmp_path / "out" / name).write_bytes(data)
    with pytest.raises(InputError, match=r"vae/diffusion_pytorch_model.safetensors .*SHA-256"):
        fetch(tmp_path / "run", f"{destination}@latest")


def test_a_release_that_is_not_what_the_channel_was_moved_to_is_refused(destination):
    store, folder = open_store(destination), "releases/tiny-srpo-000000000001"
    store.remove([f"{folder}/{name}" for name in store.files(folder)])
    publish_tiny(destination, "tiny-srpo-000000000001", git_commit="another")
    with pytest.raises(InputError, match=r"000000000001/manifest\.json is not what the channel was moved to"):
        fetch_base.find_sources(Config(model=f"{destination}@latest"))
    assert fetch_base.find_sources(Config(model=f"{destination}@tiny-srpo-000000000001"))


def test_the_folder_of_a_release_and_its_pipeline_are_that_release(tmp_path):
    """As `srpo fetch` leaves it: with or without /model."""
    where = publish_tiny(tmp_path / "out", "tiny-srpo-000000000001")
    for name in (where, f"{where}/model", f"{where}/"):
        assert fetch(tmp_path / "run", name)[1]["base"].release["id"] == "tiny-srpo-000000000001"
    assert fetch(tmp_path / "run", str(BASE))[1]["base"].release is None


@pytest.mark.real
def test_from_a_real_server_and_mended_from_there(s3_server, tmp_path, monkeypatch):
    """Swift: the release is fetched through the channel; what was damaged in the cache is fetched again."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    place = f"s3://{s3_server.bucket()}/a prefix ü"
    publish_tiny(place, "tiny-srpo-000000000001")
    move_channel(place, "latest", "tiny-srpo-000000000001")
    key, models = fetch(tmp_path / "run", f"{place}@latest")
    weights = models["base"].folder / "vae/diffusion_pytorch_model.safetensors"
    weights.write_bytes(b"damaged")
    again, models = fetch(tmp_path / "run", f"{place}@latest")
    assert again == key
    assert weights.read_bytes() == (BASE / "vae/diffusion_pytorch_model.safetensors").read_bytes()


def test_offline_a_channel_in_s3_is_not_asked():
    with pytest.raises(InputError, match="offline, and model 's3://models/tiny@latest' is in S3"):
        fetch_base.find_sources(Config(model="s3://models/tiny@latest", offline=True))


def test_models_json_holds_the_release(tmp_path):
    publish_tiny(tmp_path / "out", "tiny-srpo-000000000001")
    run = TinyRun(tmp_path / "run")
    models = run.stage("fetch_base", {"model": f"{tmp_path}/out@tiny-srpo-000000000001"}, (), ("models", "report"))
    stored = json.loads((models["models"] / "models.json").read_text())
    assert stored["base"]["release"]["id"] == "tiny-srpo-000000000001"
    assert str(tmp_path) not in json.dumps(stored)
