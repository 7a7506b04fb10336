"""What is refused before any weight is loaded, each with the thing, its value and what would do."""

import dataclasses
import json
import shutil
import sys
import types
import typing

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from tiny_runs import TRAIN

from srpo.core.contracts.config import from_mapping
from srpo.core.contracts.errors import InputError
from srpo.core.storage.models import read_models
from srpo.train import preflight as checks
from srpo.train.checkpoints import read_facts
from srpo.train.config import Config, Tracker
from srpo.train.preflight import Inputs, preflight
from srpo.train.records import start_trackers
from srpo.train.worker import check_ranks

CONFIG = from_mapping(Config, TRAIN, "train")


@pytest.fixture(scope="module")
def given(tiny_run):
    inputs = Inputs(**{name: tiny_run.artifacts[name] for name in ("models", "prompts", "embeddings", "text_features")})
    return inputs, read_models(inputs.models, tiny_run.workspace)


def refused(given, tmp_path, config=CONFIG, models=None, **changes):
    inputs, found = given
    with pytest.raises(InputError) as error:
        preflight(dataclasses.replace(config, **changes), inputs, models or found, tmp_path)
    return str(error.value)


def edited(entry, folder, part, **settings):
    """A copy of a model of which one configuration says something else."""
    shutil.copytree(entry.folder, folder)
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    return dataclasses.replace(entry, path=str(folder))


def test_what_fits_is_accepted(given, tmp_path):
    inputs, models = given
    preflight(CONFIG, inputs, models, tmp_path)


def test_the_number_of_prompts_is_checked(given, tmp_path):
    said = refused(given, tmp_path, steps=500)
    assert "the embeddings lack the prompt" in said
    assert "one of 176 which this run draws, and hold" in said
    assert "train_prompts" in said
    assert "the embeddings lack" in refused(given, tmp_path, steps=1, guard_prompts=1000)


def test_embeddings_of_another_width_are_refused(given, tmp_path):
    models = given[1] | {"base": edited(given[1]["base"], tmp_path / "m", "transformer", joint_attention_dim=4096)}
    assert "'tiny' has joint_attention_dim 4096" in refused(given, tmp_path, models=models)
    models = given[1] | {"base": edited(given[1]["base"], tmp_path / "p", "transformer", pooled_projection_dim=768)}
    assert "'tiny' has pooled_projection_dim 768" in refused(given, tmp_path, models=models)


def test_text_features_of_another_reward_are_refused(given, tmp_path):
    models = given[1] | {"reward": edited(given[1]["reward"], tmp_path / "r", ".", projection_dim=1024)}
    assert "for reward: 'tiny-reward' has 1024" in refused(given, tmp_path, models=models).replace(
        repr(given[1]["reward"].name), "'tiny-reward'"
    )


def test_a_volume_without_room_is_refused(given, tmp_path, monkeypatch):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1_000_000))
    assert "the workspace has 1 MB free: checkpoints need about" in refused(given, tmp_path)


def test_an_image_size_and_missing_real_images_are_refused(given, tmp_path):
    assert "resolution is 30" in refused(given, tmp_path, resolution=30)
    assert ".png: it must hold one a prompt" in refused(given, tmp_path, offline_images=str(tmp_path))


def test_an_adapter_that_would_train_nothing_is_refused(given, tmp_path):
    said = refused(given, tmp_path, lora_rank=2, lora_targets=("to_q", "to_kk"))
    assert "train.lora_targets has 'to_kk'" in said
    assert "attn.to_k" in said
    with pytest.raises(InputError, match=r"lora_alpha is 0\.0: it must be above 0"):
        dataclasses.replace(CONFIG, lora_rank=2, lora_alpha=0.0)


def test_more_ranks_than_gpus_or_than_named_are_refused(given, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"2 processes joined, the configuration names 1: train\.processes must be"):
        check_ranks(CONFIG, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "train.processes is 2: it must be at most 1, the GPUs" in refused(given, tmp_path, processes=2)
    checks.check_devices(dataclasses.replace(CONFIG, processes=2, device="cpu"))


def test_trackers_are_known_and_installed_or_named(given, tmp_path, monkeypatch):
    assert "train.trackers is 'wandd': it must be among" in refused(given, tmp_path, trackers=("wandd",))
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    for name in ("wandb", "mlflow"):
        assert f"{name!r}, which is not installed: pip install {name}" in refused(given, tmp_path, trackers=(name,))


def test_the_settings_take_the_trackers_that_accelerate_knows_and_no_other():
    assert set(typing.get_args(Tracker)) == set(LOGGER_TYPE_TO_CLASS)
    assert from_mapping(Config, {"trackers": ["wandb"]}, "train").trackers == ("wandb",)
    with pytest.raises(InputError, match=r"train\.trackers\[0\] is 'wandd': it must be one of .*'wandb'"):
        from_mapping(Config, {"trackers": ["wandd"]}, "train")


def test_a_tracker_gets_settings_and_records_through_accelerate(tmp_path, monkeypatch):
    """A stand-in for wandb: what accelerate calls is what a user of it would see."""
    seen = []
    run = types.SimpleNamespace(
        log=lambda values, step=None, **more: seen.append((values, step)), finish=lambda: seen.append("finished")
    )
    config = types.SimpleNamespace(update=lambda values, **more: seen.append(values))
    stand_in = types.SimpleNamespace(init=lambda **more: seen.append(more) or run, config=config)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    (tracker,) = start_trackers(dataclasses.replace(CONFIG, trackers=("wandb",)), tmp_path)
    tracker.log({"loss": 0.5}, step=3)
    tracker.finish()
    assert seen[0]["project"] == "srpo"
    assert seen[1]["learning_rate"] == "0.0001"
    assert seen[2:] == [({"loss": 0.5}, 3), "finished"]


def test_a_run_does_not_go_on_with_other_settings(tmp_path):
    facts = {"records": [{"step": 0}, {"step": 5}], "config": dataclasses.asdict(CONFIG)}
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    changed = dataclasses.replace(CONFIG, processes=2, steps=9, trackers=("tensorboard",))
    assert read_facts(tmp_path, changed) == facts["records"]
    with pytest.raises(InputError, match=r"train\.learning_rate is 0\.1, but .* was trained with 0\.0001"):
        read_facts(tmp_path, dataclasses.replace(CONFIG, learning_rate=0.1))
