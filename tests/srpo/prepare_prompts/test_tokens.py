"""Tokens are counted as the base model's own text encoders count them, without torch."""

import json
import shutil
from pathlib import Path

import pytest
from preparing import prepare
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoTokenizer, CLIPTokenizer, Qwen2Tokenizer

import srpo.tiny
from srpo.core.backbones.pipelines import text_tokens
from srpo.core.contracts.errors import InputError
from srpo.core.storage.models import ModelEntry, folder_digest, write_models
from srpo.prepare_prompts import tokens

FLUX = Path(srpo.tiny.__file__).parent / "weights" / "flux"
SPECIAL = ["<|startoftext|>", "<|endoftext|>"]
TEXTS = [
    "a red fox, 35mm photo (f/1.8) -- it's 4K!!",
    "A DOG'S dinner   &  'tis  the season\tof  café",
    "猫が窓辺で眠っている 🦊🦊 ثعلب <b>أحمر</b>",
    "1234567 years",
    "x",
]


@pytest.fixture
def bare(tmp_path):
    """Write a tokenizer as bare vocab.json and merges.txt, as the published pipelines have it; returns its pipeline."""

    def write(kind, suffix):
        folder = tmp_path / "model" / "tokenizer"
        folder.mkdir(parents=True)
        made = ByteLevelBPETokenizer(end_of_word_suffix=suffix or None)
        made.train_from_iterator(TEXTS * 3, vocab_size=340, special_tokens=SPECIAL, show_progress=False)
        made.save_model(str(folder))
        settings = {"tokenizer_class": kind, "model_max_length": 77}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        return folder.parent

    return write


@pytest.fixture
def models(tmp_path):
    """The `models` artifact of a run whose base is the tiny FLUX."""
    (tmp_path / "out" / "models").mkdir(parents=True)
    (tmp_path / "out" / "models" / "flux").symlink_to(FLUX)
    artifact = tmp_path / "models"
    write_models(
        artifact, {"base": ModelEntry(name="tiny", path="models/flux", digest=folder_digest(FLUX), licence="")}
    )
    return artifact


@pytest.mark.parametrize(
    ("kind", "own", "suffix"), [("CLIPTokenizer", CLIPTokenizer, "</w>"), ("Qwen2Tokenizer", Qwen2Tokenizer, "")]
)
def test_bare_vocabularies_count_as_transformers_does(bare, kind, own, suffix):
    folder = bare(kind, suffix)
    (encoder,) = tokens.load(folder)
    reference = own.from_pretrained(folder / "tokenizer")
    assert encoder.lengths(TEXTS) == [len(ids) for ids in reference(TEXTS).input_ids]
    assert (encoder.name, encoder.limit) == ("tokenizer", 77)


def test_both_encoders_of_flux_count_as_transformers_does():
    encoders = tokens.load(FLUX)
    texts = ["a red circle on a blue background", "a purple background with a cyan cross"]
    for encoder, name in zip(encoders, ("tokenizer", "tokenizer_2"), strict=True):
        reference = AutoTokenizer.from_pretrained(FLUX / name)
        assert encoder.lengths(texts) == [len(ids) for ids in reference(texts).input_ids]
        assert (encoder.name, encoder.limit) == (name, reference.model_max_length)


@pytest.mark.parametrize("limit", [None, 1000000000000000019884624838656])
def test_a_tokenizer_without_a_limit_has_that_of_its_encoder(tmp_path, file, limit):
    """transformers writes 10^30 where nobody gave one."""
    folder = shutil.copytree(FLUX, tmp_path / "flux")
    for name in ("tokenizer", "tokenizer_2"):
        settings = json.loads((folder / name / "tokenizer_config.json").read_text())
        (folder / name / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": limit}))
    places = json.loads((folder / "text_encoder/config.json").read_text())["max_position_embeddings"]
    assert [encoder.limit for encoder in tokens.load(folder)] == [places, tokens.NO_LIMIT]
    assert text_tokens(folder) == 512
    models = tmp_path / "models"
    entry = ModelEntry(name="flux", path=str(folder), digest=folder_digest(folder), licence="Apache-2.0")
    write_models(models, {"base": entry, "judge": None})
    path = file("a.txt", "a red circle on a blue background\na red cross on a cyan background\na blue ring\n")
    rows, *_ = prepare(tmp_path / "out", path, "tiny", models=models)
    assert "a blue ring" in {row["prompt"] for row in rows}


def test_what_the_encoder_would_cut_is_refused(tmp_path, file, models):
    fits, cut = "a red circle on a blue background", "a red circle on a blue background " * 4
    path = file("a.txt", f"{fits}\n{cut}\na blue circle on a red background\na red cross on a cyan background\n")
    rows, rejected, metrics, report = prepare(tmp_path / "out", path, "tiny", models=models)
    assert fits in {row["prompt"] for row in rows}
    assert [(row["source"], row["line"], row["reason"]) for row in rejected if row["reason"] != "duplicate"] == [
        ("a.txt", 2, "too many tokens")
    ]
    assert "29 of 16 tokens" in {row["detail"] for row in rejected}
    assert metrics["max_tokens_of_tokenizer_2"] <= 16
    assert "tokens of tokenizer_2" in report
    rows, rejected, *_ = prepare(tmp_path / "out" / "free", path, models=None)
    assert not rejected


def test_max_tokens_may_be_less_than_the_encoder_takes(tmp_path, file, models):
    short = [f"a {colour} {shape}" for colour in ("red", "blue", "cyan", "green") for shape in ("circle", "cross")]
    path = file("a.txt", "\n".join(["a red circle on a blue background", *short]))
    rows, rejected, *_ = prepare(tmp_path / "out", path, models=models, max_tokens=5)
    assert {row["prompt"] for row in rows} == set(short)
    assert [(row["line"], row["detail"]) for row in rejected] == [(1, "8 of 5 tokens")]
    (tmp_path / "more").mkdir()
    (tmp_path / "out/models").rename(tmp_path / "more/models")
    _, rejected, *_ = prepare(tmp_path / "more", path, models=models, max_tokens=None)
    assert not rejected


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "has no tokenizer"),
        ({"tokenizer_2/spiece.model": "x", "tokenizer_2/tokenizer_config.json": '{"tokenizer_class": "T5Tokenizer"}'},
         "of the class T5Tokenizer and has no tokenizer.json"),
        ({"tokenizer/tokenizer.json": "{}", "tokenizer/tokenizer_config.json": "{}"}, "cannot be read"),
        ({"tokenizer/tokenizer.json": "{}"}, "cannot be read"),
    ],
)  # fmt: skip
def test_a_model_without_a_readable_tokenizer_is_named(tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=said):
        tokens.load(tmp_path)
