"""Rewards that are released as `.pt`: fetched, read as tensors alone, kept as safetensors."""

import dataclasses
import io
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from fake_hub import PAGE
from open_clip_models import random_model, release

from srpo.core.contracts.errors import InputError
from srpo.core.rewards.convert import CONVERSIONS, convert_reward
from srpo.core.rewards.dual_encoder import ImageTower, TextTower
from srpo.core.rewards.folders import check_reward_folder
from srpo.core.storage import model_cache
from srpo.core.storage.model_cache import File
from srpo.fetch_base.catalogue import Entry, Part, catalogue
from srpo.fetch_base.fetch import Found, Place, fetch, look_up, named_for, problems

RELEASE, CONFIG = "HPS_v2.1_compressed.pt", "open_clip_config.json"
TOKENIZER = Part(source="hf://org/tokenizer", files=("vocab.json", "merges.txt"))
HPS = Entry(
    name="hps",
    source="hf://org/hps",
    files=(RELEASE, CONFIG),  # a model of another size than HPSv2's own says what it is
    also=(TOKENIZER,),
    convert="hpsv2",
    licence="Apache-2.0",
)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The files of a small HPSv2, as its two repositories hold them."""
    files = release(tmp_path_factory.mktemp("released"), *random_model())
    return {name: Path(path).read_bytes() for name, path in files.items()}


@pytest.fixture
def hps(hub):
    """The two repositories, with files that are none yet."""
    hub.add("org/hps", {RELEASE: b"", CONFIG: b"{}"})
    hub.add("org/tokenizer", dict.fromkeys(TOKENIZER.files, b"{}"))
    return hub


@pytest.fixture
def whole_hps(hps, released):
    hps.add("org/hps", {RELEASE: released["weights"], CONFIG: released[CONFIG]})
    hps.add("org/tokenizer", {name: released[name] for name in TOKENIZER.files})
    return hps


def get(place):
    found = look_up(HPS, place)
    return place.cache / fetch(found, place).folder


@pytest.mark.real
def test_a_released_reward_is_kept_as_safetensors_and_loads(whole_hps, tmp_path):
    place = Place(tmp_path)
    folder = get(place)
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "tokenizer.json"} <= names
    assert not list(tmp_path.rglob("*.pt"))
    assert folder.name == model_cache.digest_of(model_cache.list_files(folder))
    texts = TextTower.load(folder, torch.device("cpu"))(["a red circle", "a blue square"])
    images = ImageTower.load(folder, torch.device("cpu"))(torch.rand(2, 3, 28, 28))
    assert torch.isfinite(images @ texts.T).all()

    asked = len(whole_hps.requests)
    assert get(place) == folder
    assert len(whole_hps.requests) == asked


@pytest.mark.real
def test_a_damaged_converted_reward_is_fetched_and_converted_again(whole_hps, tmp_path):
    place = Place(tmp_path)
    folder = get(place)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    (folder / "tokenizer.json").unlink()
    assert problems(look_up(HPS, place), place) == ["model.safetensors", "tokenizer.json"]
    assert get(place) == folder
    assert (folder / "model.safetensors").read_bytes() == whole
    assert (folder / "tokenizer.json").is_file()


def test_another_version_of_the_conversion_takes_the_release_up_again(hps, tmp_path, monkeypatch):
    place = Place(tmp_path)
    first = look_up(HPS, place).key
    assert look_up(HPS, place).key == first
    monkeypatch.setattr("srpo.fetch_base.fetch.CONVERSION", 0)
    assert look_up(HPS, place).key != first


class Code:
    """What unpickling would run."""

    def __reduce__(self):
        return open, (Code.target, "w")


@pytest.mark.parametrize("torch_format", [False, True], ids=["pickle", "torch"])
def test_a_release_that_carries_code_is_refused_and_does_not_run(hps, tmp_path, torch_format):
    Code.target = str(tmp_path / "it-ran")
    data = io.BytesIO()
    if torch_format:
        torch.save({"state_dict": {"weight": torch.zeros(1), "code": Code()}}, data)
    else:
        pickle.dump({"state_dict": Code()}, data, protocol=2)
    hps.repos["org/hps"][RELEASE] = data.getvalue()
    with pytest.raises(InputError, match="code"):
        get(Place(tmp_path / "cache"))
    assert not (tmp_path / "it-ran").exists()
    assert not any(len(path.name) == 64 for path in (tmp_path / "cache").iterdir())


@pytest.mark.parametrize("content", [b"not a checkpoint" * 300, PAGE])
def test_a_release_that_is_none_is_refused(hps, tmp_path, content):
    hps.repos["org/hps"][RELEASE] = content
    with pytest.raises(InputError, match="HPS_v2"):
        get(Place(tmp_path))
    assert not any(len(path.name) == 64 for path in tmp_path.iterdir())


@pytest.mark.real
def test_released_files_on_a_disk_are_converted_too(released, tmp_path):
    source = tmp_path / "released"
    source.mkdir()
    for name, data in (released | {RELEASE: released["weights"]}).items():
        (source / name).write_bytes(data)
    files = (RELEASE, CONFIG, *TOKENIZER.files)
    entry = Entry(name="hps", source=str(source), files=files, convert="hpsv2", licence="MIT")
    place = Place(tmp_path / "cache")
    folder = place.cache / fetch(look_up(entry, place), place).folder
    assert json.loads((folder / "config.json").read_text())["model_type"] == "clip"


def test_what_cannot_be_converted_is_not_fetched(hps, tmp_path, monkeypatch):
    entry = dataclasses.replace(HPS, convert="hpsv3")
    with pytest.raises(InputError, match=r"convert of 'hps' is 'hpsv3': it must be one of .*hpsv2"):
        fetch(look_up(entry, Place(tmp_path)), Place(tmp_path))
    monkeypatch.setitem(sys.modules, "srpo.core.rewards.convert", None)  # as where there is no torch
    with pytest.raises(InputError, match=r"'hps' is released in a format that torch must read"):
        get(Place(tmp_path))
    assert not hps.got(RELEASE)


NEEDED = {
    "hpsv2": {"weights", "vocab.json", "merges.txt"},
    "aesthetic": {"head", "config.json", "model.safetensors", "preprocessor_config.json"},
    "image_reward": {"weights", "med_config.json", "vocab.txt"},
}


@pytest.mark.parametrize("name", [name for name, entry in catalogue()["rewards"].items() if entry.convert])
def test_every_conversion_of_the_catalogue_is_given_what_it_asks_for(name, tmp_path):
    entry = catalogue()["rewards"][name]
    found = Found(entry, "key", [("main", [File(file, 1) for file in part.files]) for part in entry.parts])
    assert entry.convert in CONVERSIONS
    assert set(named_for(found, tmp_path)) >= NEEDED[entry.convert]


@pytest.mark.real
def test_the_aesthetic_head_of_the_catalogue_meets_its_clip(hub, tmp_path):
    """From the repositories that the catalogue names, with a small CLIP and a head that fits it."""
    model, config = random_model(quick_gelu=True)
    convert_reward("open_clip", release(tmp_path / "files", model, config), tmp_path / "clip")
    sizes = (config["embed_dim"], 16, 12, 8, 4, 1)
    head = {}
    for place, before, after in zip((0, 2, 4, 6, 7), sizes, sizes[1:], strict=False):
        head |= {f"layers.{place}.weight": torch.rand(after, before), f"layers.{place}.bias": torch.rand(after)}
    data = io.BytesIO()
    torch.save(head, data)
    entry = catalogue()["rewards"]["aesthetic-v2"]
    files = {path.name: path.read_bytes() for path in (tmp_path / "clip").iterdir()}
    named = {name: files.get(name, b"{}") for name in entry.also[0].files}
    hub.add("openai/clip-vit-large-patch14", named, commit=entry.also[0].revision)
    hub.add("camenduru/improved-aesthetic-predictor", {entry.files[0]: data.getvalue()})
    place = Place(tmp_path / "cache")
    with pytest.raises(InputError, match="it must have 21dd590f"):  # it is not the published head
        look_up(entry, place)
    found = fetch(look_up(dataclasses.replace(entry, sha256={}), place), place)
    assert check_reward_folder(place.cache / found.folder) == "aesthetic"
    assert "head.safetensors" in {path.name for path in (place.cache / found.folder).iterdir()}
