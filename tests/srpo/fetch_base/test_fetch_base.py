"""Models by name or folder: what is refused before anything is copied, and a copy that is whole or made again."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_runs import TinyRun

from srpo.core.contracts.errors import InputError
from srpo.core.storage.model_cache import verify
from srpo.core.storage.models import folder_digest, read_models, reward_roles
from srpo.fetch_base.catalogue import find
from srpo.fetch_base.config import Config
from srpo.fetch_base.run import find_sources

BASE = find("base", "tiny").folder
REWARD = find("rewards", "tiny-clip").folder


def fetch(folder: Path, **config: str) -> tuple[Path, Path]:
    """The ``models`` artifact of a run in its own workspace, and that workspace."""
    run = TinyRun(folder)
    return run.stage("fetch_base", config, (), ("models", "report"))["models"], run.workspace


def copy_of(source: Path, place: Path, leave_out: str = "") -> Path:
    shutil.copytree(source, place, ignore=shutil.ignore_patterns(leave_out) if leave_out else None)
    return place


@pytest.mark.parametrize(
    ("setting", "name", "meant"),
    [
        ("model", "tinny", "tiny"),
        ("reward", "tiny-clib", "tiny-clip"),
        ("held_out_reward", "tiny-siglib", "tiny-siglip"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(setting, name, meant):
    with pytest.raises(InputError) as error:
        find_sources(Config(**{setting: name}))
    assert repr(name) in str(error.value)
    assert f"did you mean {meant!r}?" in str(error.value)


def test_a_pipeline_without_a_part_is_refused_by_the_part(tmp_path):
    folder = copy_of(BASE, tmp_path / "model", leave_out="transformer")
    with pytest.raises(InputError, match="'transformer'") as error:
        find_sources(Config(model=str(folder)))
    assert str(folder) in str(error.value)


def test_a_pipeline_of_another_class_is_refused(tmp_path):
    folder = copy_of(BASE, tmp_path / "model")
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(InputError, match=r"'StableDiffusionPipeline'.*'FluxPipeline'"):
        find_sources(Config(model=str(folder)))


@pytest.mark.parametrize("file", ["*.safetensors", "config.json", "preprocessor_config.json"])
def test_a_reward_that_is_not_whole_is_refused(tmp_path, file):
    folder = copy_of(REWARD, tmp_path / "reward", leave_out=file)
    with pytest.raises(InputError) as error:
        find_sources(Config(reward=str(folder)))
    assert file in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    "reward", ["tiny-siglip", "tiny-clip,tiny-siglip=0.5", str(find("rewards", "tiny-siglip").folder)]
)
def test_a_trained_reward_does_not_judge(reward):
    """Under its name, among several, or under the path of the same folder."""
    with pytest.raises(InputError, match="held_out_reward"):
        find_sources(Config(reward=reward, held_out_reward="tiny-siglip"))


@pytest.mark.parametrize("reward", ["tiny-clip=0", "tiny-clip=-1", "tiny-clip=much", "=1", "tiny-clip=inf", "a,a=2"])
def test_a_bad_list_of_rewards_is_refused(reward):
    with pytest.raises(InputError, match="reward is "):
        Config(reward=reward)


def test_a_damaged_copy_is_found_and_made_again(tmp_path):
    models, workspace = fetch(tmp_path)
    entry = read_models(models, workspace)["reward"]
    weights = entry.folder / "model.safetensors"
    whole = weights.read_bytes()
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1  # same size, same name: only its hash tells
    weights.write_bytes(damaged)

    again, _ = fetch(tmp_path)
    assert weights.read_bytes() == whole
    assert read_models(again, workspace)["reward"] == entry
    assert not list((workspace / "models").glob(".*")), "a half-made copy was left"


def test_several_rewards_keep_their_order_weights_and_words(tmp_path):
    other = copy_of(REWARD, tmp_path / "other")
    models, workspace = fetch(tmp_path, reward=f"tiny-clip=1.0, {other}=0.5")
    found = read_models(models, workspace)
    assert reward_roles(found) == ["reward", "reward_2"]
    assert [(found[role].name, found[role].weight) for role in ("reward", "reward_2")] == [
        ("tiny-clip", 1.0),
        ("other", 0.5),
    ]
    assert "Real" in found["reward_2"].positive_words  # a folder is given the published words
    assert found["reward_2"].licence == "not stated"


def test_models_are_named_by_their_place_in_the_workspace(tmp_path):
    """The same artifact serves every pod, wherever the volume is mounted there."""
    models, workspace = fetch(tmp_path)
    stored = json.loads((models / "models.json").read_text())
    assert set(stored) == {"base", "reward", "held_out", "judge"}
    assert all(entry["path"] == f"models/{entry['digest']}" for entry in stored.values())
    assert str(tmp_path) not in (models / "models.json").read_text()
    moved = workspace.rename(tmp_path / "mounted-elsewhere")
    for role, entry in read_models(models, moved).items():
        assert folder_digest(entry.folder) == stored[role]["digest"]


def test_a_model_that_is_gone_is_named(tmp_path):
    models, workspace = fetch(tmp_path)
    shutil.rmtree(read_models(models, workspace)["held_out"].folder)
    with pytest.raises(InputError, match="'tiny-siglip' is not in the cache"):
        read_models(models, workspace)


def test_where_models_come_from_and_lie_makes_no_other_result(tmp_path):
    """A run goes on with finished results when its cache moves, or the network goes."""
    models, workspace = fetch(tmp_path)
    first = json.loads((models / "manifest.json").read_text())
    shutil.rmtree(workspace / "stages")
    elsewhere = tmp_path / "cache of all"
    again, _ = fetch(tmp_path, cache=str(elsewhere), offline=True)
    assert json.loads((again / "manifest.json").read_text())["key"] == first["key"]
    found = read_models(again, workspace)
    assert all(entry.folder.parent == elsewhere for entry in found.values())


def test_the_environment_names_the_cache_of_all_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SRPO_MODEL_CACHE", str(tmp_path / "all"))
    models, workspace = fetch(tmp_path)
    assert read_models(models, workspace)["base"].folder.parent == tmp_path / "all"


def test_a_copy_has_no_format_that_can_carry_code(tmp_path):
    other = copy_of(REWARD, tmp_path / "other")
    (other / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (other / ".git").mkdir()
    (other / ".git" / "config").write_text("")
    models, workspace = fetch(tmp_path, reward=str(other))
    entry = read_models(models, workspace)["reward"]
    assert entry.digest == folder_digest(REWARD)
    assert not (entry.folder / "pytorch_model.bin").exists()


def test_weights_that_are_a_web_page_are_refused(tmp_path):
    other = copy_of(REWARD, tmp_path / "other")
    (other / "model.safetensors").write_text("<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(InputError, match=r"model\.safetensors is a web page"):
        fetch(tmp_path, reward=str(other))
    assert not [path for path in (tmp_path / "workspace").rglob("*.safetensors") if path.read_bytes()[:1] == b"<"
                and "partial" not in path.parts]  # fmt: skip


def from_hub(hub, tmp_path):
    """A catalogue whose base and reward are on the hub: the tiny ones."""
    for name, folder in (("base", BASE), ("reward", REWARD)):
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        hub.add(f"org/{name}", files)
    hub.gated.add("org/base")
    path = tmp_path / "own.yaml"
    path.write_text(
        "base: {far: {source: hf://org/base, licence: other, commercial_use: false}}\n"
        "rewards: {far-clip: {source: hf://org/reward, licence: MIT, positive_words: [A], negative_words: [B]}}\n"
    )
    return {"catalogue": str(path), "model": "far", "reward": "far-clip"}


def test_a_run_takes_its_models_from_the_hub_and_then_from_its_cache(hub, tmp_path, monkeypatch):
    config = from_hub(hub, tmp_path)
    with pytest.raises(InputError, match=r"offline, and not whole in the cache .*: far .*; far-clip "):
        fetch(tmp_path, offline=True, **config)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    models, workspace = fetch(tmp_path, **config)
    found = read_models(models, workspace)
    assert found["base"].digest == folder_digest(BASE)
    assert (found["base"].licence, found["base"].commercial_use) == ("other", False)
    assert found["base"].source == f"hf://org/base@{'c' * 40}"
    assert (found["reward"].digest, found["reward"].positive_words) == (folder_digest(REWARD), ("A",))
    hub.close()
    again, _ = fetch(tmp_path, offline=True, **config)
    assert read_models(again, workspace) == found
    text = "".join(
        path.read_text() for path in (tmp_path / "workspace").rglob("*.json") if "tokenizer" not in path.name
    )
    assert hub.token not in text


def test_what_the_catalogue_says_of_a_model_makes_another_result(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    config = from_hub(hub, tmp_path)
    before, workspace = fetch(tmp_path, **config)
    before = json.loads((before / "manifest.json").read_text())["key"]
    catalogue = Path(config["catalogue"])
    catalogue.write_text(catalogue.read_text().replace("[A]", "[C]"))
    after, _ = fetch(tmp_path, **config)
    assert json.loads((after / "manifest.json").read_text())["key"] != before
    assert read_models(after, workspace)["reward"].positive_words == ("C",)


def test_published_models_are_put_together_from_their_repositories(hub, tmp_path, monkeypatch):
    """FLUX.1-dev and PickScore as the catalogue has them, from a hub that holds the tiny ones under their names."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    flux, pickscore = find("base", "black-forest-labs/FLUX.1-dev"), find("rewards", "pickscore")
    base = {path.relative_to(BASE).as_posix(): path.read_bytes() for path in BASE.rglob("*") if path.is_file()}
    more = {"LICENSE.md": b"terms", "flux1-dev.safetensors": b"the same again", "dev_grid.jpg": b"", "README.md": b""}
    hub.add("black-forest-labs/FLUX.1-dev", base | more, commit=flux.revision)
    hub.gated.add("black-forest-labs/FLUX.1-dev")
    files = {path.name: path.read_bytes() for path in REWARD.iterdir()}
    rest = {name: files.get(name, b"{}") for part in pickscore.also for name in part.files}
    weights = {name: files[name] for name in pickscore.files}
    hub.add("yuvalkirstain/PickScore_v1", weights | {"pytorch_model.bin": b"pickle"}, commit=pickscore.revision)
    hub.add("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", files | rest, commit=pickscore.also[0].revision)
    config = {"model": flux.name, "reward": "pickscore", "held_out_reward": "clip-vit-h-14"}
    models, workspace = fetch(tmp_path, **config)
    found = read_models(models, workspace)
    names = {path.relative_to(found["base"].folder).as_posix() for path in found["base"].folder.rglob("*.*")}
    assert {name for name in names if "/" not in name} == {"model_index.json", "LICENSE.md"}
    assert names >= {name for name in base if "/" in name}
    assert {path.name for path in found["reward"].folder.iterdir()} == {*weights, *rest}
    assert (found["base"].commercial_use, found["reward"].commercial_use) == (False, True)
    report = (tmp_path / "fetch_base" / "report").read_text()
    assert "flux-1-dev-non-commercial-license" in report
    assert "not allowed" in report


def test_the_cache_keeps_only_the_weights_that_are_opened(tmp_path):
    """Shards beside a stale single file, a variant, and the whole model in one file at the top."""
    folder = copy_of(BASE, tmp_path / "model")
    part, name = folder / "transformer", "diffusion_pytorch_model"
    tensors = load_file(part / f"{name}.safetensors")
    names = sorted(tensors)
    weight_map = {}
    for number, own in ((1, names[::2]), (2, names[1::2])):
        file = f"{name}-0000{number}-of-00002.safetensors"
        save_file({one: tensors[one] for one in own}, part / file, {"format": "pt"})
        weight_map |= dict.fromkeys(own, file)
    (part / f"{name}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    for stale in (part / f"{name}.safetensors", part / f"{name}.fp16.safetensors", folder / "flux1-dev.safetensors"):
        save_file({one: value + 1 for one, value in tensors.items()}, stale, {"format": "pt"})
    models, workspace = fetch(tmp_path, model=str(folder))
    kept = read_models(models, workspace)["base"].folder
    weights = {path.relative_to(kept).as_posix() for path in kept.rglob("*.safetensors")}
    assert {path for path in weights if path.startswith("transformer") or "/" not in path} == {
        f"transformer/{name}-0000{number}-of-00002.safetensors" for number in (1, 2)
    }


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda part: (part / "diffusion_pytorch_model.safetensors").unlink(), r"transformer \(no weights\)"),
        (
            lambda part: (part / "diffusion_pytorch_model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "diffusion_pytorch_model-00001-of-00002.safetensors"}}'
            ),
            "00001-of-00002.safetensors', which is missing",
        ),
    ],
)
def test_a_model_that_lacks_weights_is_refused_and_nothing_of_it_stays_in_the_cache(tmp_path, spoil, words):
    folder = copy_of(BASE, tmp_path / "model")
    spoil(folder / "transformer")
    with pytest.raises(InputError, match=words):
        fetch(tmp_path, model=str(folder))
    cache = tmp_path / "workspace" / "models"
    assert not [path for path in cache.glob("*") if len(path.name) == 64]
    assert not list(cache.glob("partial/*"))


def test_a_model_in_the_cache_that_is_not_complete_is_not_called_whole(tmp_path):
    models, workspace = fetch(tmp_path)
    kept = read_models(models, workspace)["base"].folder
    broken = workspace / "models" / ("0" * 64)
    copy_of(kept, broken, leave_out="vae")
    assert "vae (missing)" in verify(workspace / "models")[broken.name]
    assert verify(workspace / "models")[kept.name] == []
