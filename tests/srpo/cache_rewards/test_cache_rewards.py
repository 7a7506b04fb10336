"""Text features on disk against transformers' own models, and which texts are there at all."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel, SiglipModel

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.order import prompt_order
from srpo.core.contracts.prompts import of_split, read_prompts
from srpo.core.contracts.tensors import read_text_features
from srpo.core.storage.models import read_models


@pytest.fixture(scope="module")
def few(tiny_run, tmp_path_factory):
    """A prompt table of 12 prompts to train on and 3 that are judged."""
    config = {"train_prompts": 12, "held_out_prompts": 3}
    folder = tmp_path_factory.mktemp("few")
    return tiny_run.stage("prepare_prompts", config, (), ("prompts",), into=folder)["prompts"]


def cached(tiny_run, prompts, folder, **config):
    """The table that the stage writes."""
    made = tiny_run.stage("cache_rewards", config, ("models",), ("text_features",), into=folder, prompts=prompts)
    return made["text_features"] / "text_features.parquet"


@pytest.mark.parametrize(("role", "whole_model"), [("reward", CLIPModel), ("held_out", SiglipModel)])
def test_features_equal_the_whole_model(tiny_run, role, whole_model):
    folder = read_models(tiny_run.artifacts["models"], tiny_run.workspace)[role].folder
    stored = read_text_features(tiny_run.artifacts["text_features"] / "text_features.parquet", role)
    model, tokenizer = (
        whole_model.from_pretrained(folder, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    prompts = read_prompts(tiny_run.artifacts["prompts"])
    prompts = [prompt for prompt in prompts if (prompt.prompt_id, "") in stored.features][::15]
    words = ["", "Real", "Natural-lighting", "Concept art", "Oil"]
    texts = [f"{word}. {prompt.prompt}" if word else prompt.prompt for prompt in prompts for word in words]
    length = model.config.text_config.max_position_embeddings
    tokens = tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    with torch.no_grad():
        output = model.get_text_features(**tokens)
    expected = (output if isinstance(output, torch.Tensor) else output.pooler_output).numpy()
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    found = np.stack([stored(prompt.prompt_id, word) for prompt in prompts for word in words])
    np.testing.assert_allclose(found, expected, atol=2e-6)
    spread = [np.abs(found[0] - row).max() for row in found[1:]]
    assert min(spread) > 1e-3, "texts that differ have features that differ"


def test_every_feature_has_unit_norm(tiny_run):
    table = pq.read_table(tiny_run.artifacts["text_features"] / "text_features.parquet")
    assert set(table["reward"].to_pylist()) == {"reward", "held_out"}
    norms = [np.linalg.norm(feature) for feature in table["feature"].to_pylist()]
    np.testing.assert_allclose(norms, 1, atol=1e-5)


def test_only_what_the_run_meets_is_encoded(tiny_run, few, tmp_path):
    table = read_prompts(few)
    train = of_split(table, "train")
    drawn = {train[place].prompt_id for place in prompt_order(5, len(train), 3)}
    judged = {prompt.prompt_id for prompt in table if prompt.split != "train"}
    rows = pq.read_table(cached(tiny_run, few, tmp_path, train_prompts=5, seed=3)).to_pylist()
    assert {row["prompt_id"] for row in rows} == drawn | judged
    assert len(drawn) == 5
    assert len(judged) == 3
    # No text twice: 4 positive words, 5 negative ones and the plain prompt, for two rewards.
    assert len({(row["reward"], row["prompt_id"], row["word"]) for row in rows}) == len(rows) == 2 * 8 * 10


def test_the_words_of_the_user_are_for_trained_rewards(tiny_run, few, tmp_path):
    """They replace the catalogue's, a side at a time; the reward that judges keeps its own."""
    path = cached(tiny_run, few, tmp_path, train_prompts=2, positive_words=["Soft light"])
    published = ("Natural-lighting", "Detail", "Detailed", "Real")
    for role, positive in (("reward", ("Soft light",)), ("held_out", published)):
        stored = read_text_features(path, role)
        assert stored.positive_words == positive
        assert stored.negative_words == ("Concept art", "Painting", "Anime", "Flat", "Oil")
        assert {word for _, word in stored.features} == {"", *positive, *stored.negative_words}
    trained = read_text_features(path, "reward")
    with pytest.raises(InputError, match="'Real'"):
        trained(next(iter(trained.features))[0], "Real")


def test_features_do_not_depend_on_the_batch(tiny_run, few, tmp_path):
    one, other = (
        read_text_features(cached(tiny_run, few, tmp_path / str(size), train_prompts=2, batch_size=size), "reward")
        for size in (3, 64)
    )
    assert one.features.keys() == other.features.keys()
    for key, feature in one.features.items():
        np.testing.assert_allclose(feature, other.features[key], atol=1e-6)
