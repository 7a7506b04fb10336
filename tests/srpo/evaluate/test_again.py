"""The report says how to run it again: what it gives to `srpo run` is what ran."""

import html
import json
import re
import shlex

import pytest

from srpo.configure.parameters import stage_configs
from srpo.evaluate.again import Made, command, lineage, overrides
from srpo_pipelines.settings import parameters

SETS = ["steps=7", "sample_shards=3", "seed=5", "train.margin=0.5", "sample.compare=[/r/a]"]


def manifest(configs, stage, key, **inputs):
    plain = json.loads(json.dumps(configs[stage]))
    return {"stage": stage, "key": key, "code": "c0de", "config": plain, "sources": None, "inputs": inputs}


def write_run(workspace, configs):
    """Results as stages leave them, with nothing but their manifests; returns the folders that an evaluation gets."""
    prepared, base = manifest(configs, "prepare_prompts", "a1"), manifest(configs, "fetch_base", "b2")
    texts = manifest(configs, "cache_rewards", "c3", models="b2", prompts="a1")
    embeddings = manifest(configs, "encode_prompts", "d4", models="b2", prompts="a1")
    given = {"models": "b2", "prompts": "a1", "embeddings": "d4", "text_features": "c3"}
    trained = manifest(configs, "train", "e5", **given)
    shards = [manifest(configs, "sample", f"f{n}", **given, checkpoint="e5") for n in range(3)]
    for number, shard in enumerate(shards):
        shard["config"]["shard"] = number
    folders = []
    for made in (prepared, base, texts, embeddings, trained, *shards):
        result = workspace / "stages" / made["stage"] / made["key"]
        (result / "out").mkdir(parents=True)
        (result / "manifest.json").write_text(json.dumps({"schema": "srpo.result/1"} | made))
        (result / "out" / "manifest.json").write_text(json.dumps({"schema": "srpo.artifact/1"} | made))
        if made["stage"] in ("train", "fetch_base", "sample"):
            folders.append(result / "out")
    return folders


def as_run(text, file):
    """The configurations that the command ``text`` gives, with ``file`` in place of again.json."""
    words = shlex.split(text.replace("$(cat again.json)", file.replace('"', '\\"')))
    assert words[:2] == ["srpo", "run"]
    return stage_configs(parameters(None, [word for word in words[3:] if "=" in word]))


def test_the_command_gives_every_stage_the_settings_it_had(tmp_path):
    configs = stage_configs(parameters("demo", SETS))
    folders = write_run(tmp_path, configs)
    made = lineage(folders, tmp_path)
    assert [item.stage for item in made][:6] == [
        "prepare_prompts",
        "fetch_base",
        "cache_rewards",
        "encode_prompts",
        "train",
        "sample",
    ]
    text = json.dumps(overrides(made, json.loads(json.dumps(configs["evaluate"]))))
    again = as_run(command(made), text)
    del again["export"], configs["export"]  # where the release goes is the new run's own
    assert configs["sample"].pop("shards") == 3
    assert again["sample"].pop("shards") == parameters(None).sample_shards, "another number gives the same images"
    assert again == configs


@pytest.mark.parametrize(
    ("model", "again"),
    [
        ("s3://models/tiny@latest", "s3://models/tiny@tiny-srpo-1"),
        ("/r/releases/tiny-srpo-1", "/r/releases/tiny-srpo-1"),
    ],
)
def test_again_means_the_release_that_the_channel_meant(model, again):
    sources = {"base": {"release": {"id": "tiny-srpo-1", "digest": "d"}}}
    made = [Made("fetch_base", "k", "c", {"model": model}, sources, {})]
    assert overrides(made, {})["fetch_base"]["model"] == again


def test_another_number_of_shards_is_the_same_lineage(tmp_path):
    found = []
    for shards in (1, 3):
        configs = stage_configs(parameters("demo", [f"sample_shards={shards}"]))
        folders = write_run(tmp_path / str(shards), configs)
        found.append(lineage(folders, tmp_path / str(shards)))
    assert found[0] == found[1]
    assert [item.stage for item in found[0]].count("sample") == 1
    configs["sample"]["steps"] += 1
    assert lineage(write_run(tmp_path / "other", configs), tmp_path / "other") != found[0]


def test_the_page_holds_the_command_and_the_file(scene, tmp_path):
    configs = stage_configs(parameters("demo"))
    folders = scene.write()
    for made in write_run(scene.root, configs):
        shared = json.loads((made / "manifest.json").read_text())
        place = {"train": scene.root / "checkpoint", "fetch_base": scene.root / "models"}.get(shared["stage"])
        ((place or folders[0]) / "manifest.json").write_text(json.dumps(shared))
    text = (scene.evaluate(folders) / "report.html").read_text()
    shown = html.unescape(re.search(r'aria-label="Command">(.*?)</pre>', text, re.DOTALL)[1])
    file = html.unescape(re.search(r'aria-label="again.json">(.*?)</pre>', text, re.DOTALL)[1])
    again = as_run(shown, file)
    assert again["train"] == configs["train"]
    assert again["sample"]["steps"] == configs["sample"]["steps"]
    assert again["evaluate"]["resamples"] == 500
    assert "every setting of every stage" in text


def test_gpus_are_those_of_the_training():
    train = Made("train", "k", "c", {"device": "cuda", "processes": 8}, None, {})
    assert "--set gpus=8" in command([train])
    assert "gpus" not in command([train._replace(config={"device": "auto"})])


def test_folders_of_a_person_have_no_lineage(scene):
    text = (scene.evaluate() / "report.html").read_text()
    assert "Not every stage that led here is known" in text
