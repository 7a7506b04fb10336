"""The plan: fixed blocks that shards share out, of the prompts that are judged."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import sample

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.prompts import Prompt
from srpo.core.storage.models import read_models
from srpo.sample.config import Config
from srpo.sample.plan import blocks_of, judged_prompts, of_shard
from srpo.sample.run import FILE_NAME, image_name, with_resolution


def prompts(*splits):
    return [Prompt(f"{number:04}", f"prompt {number}", "", split) for number, split in enumerate(splits)]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(["train", "held_out", "rating"]), min_size=1, max_size=30),
    *(st.integers(1, 9) for _ in range(4)),
)
def test_shards_make_every_image_once_in_blocks_that_do_not_depend_on_them(splits, noises, most, size, shards):
    table = prompts("held_out", *splits)
    given = {"noises": noises, "max_prompts": most, "block_size": size}
    parts = [of_shard(c, blocks_of(c, table)) for n in range(shards) for c in [Config(shard=n, shards=shards, **given)]]
    every = blocks_of(Config(**given), table)
    assert sorted((block for part in parts for block in part), key=lambda block: block.number) == every
    items = [(item.prompt.prompt_id, item.noise_index) for block in every for item in block.items]
    judged = judged_prompts(Config(**given), table)
    assert items == [(prompt.prompt_id, index) for prompt in judged for index in range(noises)]
    assert all(len(block.items) == size for block in every[:-1])


def test_both_judged_splits_are_sampled_and_training_prompts_never():
    table = prompts("held_out", "train", "rating", "held_out", "rating", "train", "held_out")
    found = judged_prompts(Config(max_prompts=2), table)
    assert [(prompt.prompt_id, prompt.split) for prompt in found] == [
        ("0002", "rating"),
        ("0004", "rating"),
        ("0000", "held_out"),
        ("0003", "held_out"),
    ]
    with pytest.raises(InputError, match="no prompt in the splits rating and held_out"):
        judged_prompts(Config(), prompts("train"))


def test_the_plan_of_every_shard_names_all_blocks_and_its_own(tiny_run, unchanged, whole, tmp_path):
    plans = [
        json.loads(
            (sample(tiny_run, unchanged, tmp_path / str(n), shard=n, shards=2, steps=1) / "plan.json").read_text()
        )
        for n in range(2)
    ]
    assert [plan["own"] for plan in plans] == [[0, 2], [1]]
    assert plans[0]["digest"] == plans[1]["digest"]
    other = json.loads((whole / "plan.json").read_text())  # the same prompts, another model and number of steps
    assert other["blocks"] == plans[0]["blocks"] == plans[1]["blocks"]
    assert [len(block) for block in other["blocks"]] == [4, 4, 2]
    assert other["digest"] != plans[0]["digest"]
    assert other["settings"]["steps"] == 4
    assert "shard" not in other["settings"]


def test_the_resolution_is_that_of_the_training_unless_set(tiny_run):
    base = read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"]
    trained = {"config": {"resolution": 48}}
    assert with_resolution(Config(), trained, base).resolution == 48
    assert with_resolution(Config(resolution=64), trained, base).resolution == 64
    for config, checkpoint in ((Config(resolution=36), trained), (Config(), {"config": {"resolution": 36}})):
        with pytest.raises(InputError, match="resolution is 36: it must be a multiple of"):
            with_resolution(config, checkpoint, base)


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", ".hidden", "x" * 300, "a b", "ü"])
def test_an_id_from_a_prompt_file_never_becomes_a_path(name):
    item = blocks_of(Config(), [Prompt(name, "a cat", "", "held_out")])[0].items[0]
    folder, _, file = image_name(item, "base").partition("/")
    assert folder == "images"
    assert FILE_NAME.fullmatch(file)
