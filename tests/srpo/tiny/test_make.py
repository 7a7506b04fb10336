"""Making the weights: untrained directories load, training is reproducible, bad paths are refused."""

import dataclasses
import json

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from srpo.tiny import judge, make, recipes


def contents(path):
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name != "manifest.json"
    }


def test_untrained_directories_load(tmp_path, load_pipeline):
    assert make.main(["--output", str(tmp_path / "tiny"), "--untrained"]) == 0
    pipe = load_pipeline(tmp_path / "tiny" / "flux")
    images = pipe(
        "a red circle on a blue background",
        height=32,
        width=32,
        num_inference_steps=2,
        max_sequence_length=pipe.tokenizer_2.model_max_length,
        output_type="pt",
    ).images
    assert images.shape == (1, 3, 32, 32)
    for name in ("reward", "held_out"):
        path = tmp_path / "tiny" / name
        tokens = AutoTokenizer.from_pretrained(path)(["a red circle"], padding="max_length", return_tensors="pt")
        features = AutoModel.from_pretrained(path).get_text_features(**tokens).pooler_output
        assert features.shape == (1, 64)
    assert judge.load_judge(tmp_path / "tiny" / "judge").verdict(images).features.shape == (1, judge.FEATURES)
    assert json.loads((tmp_path / "tiny" / "manifest.json").read_text())["trained"] is False


def test_training_is_reproducible_and_moves_every_part(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "executor", lambda trained: make.ThreadPoolExecutor(1))
    for name in ("CLIP", "VAE", "FLOW", "HELD_OUT", "JUDGE"):
        short = dataclasses.replace(getattr(recipes, name), steps=3, batch=4, examples=16)
        monkeypatch.setattr(recipes, name, short)
    for seed, name in enumerate(("first", "second", "untrained")):
        torch.manual_seed(seed)  # nothing may depend on what ran before
        make.make(tmp_path / name, trained=name != "untrained")
    first, second, untrained = (contents(tmp_path / name) for name in ("first", "second", "untrained"))
    assert first == second
    assert first.keys() == untrained.keys()
    assert not [name for name in first if name.endswith(".safetensors") and first[name] == untrained[name]]


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit, match="0"):
        make.main(["--help"])
    assert "example: python -m srpo.tiny.make --output" in capsys.readouterr().out


def test_a_file_as_output_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        make.main(["--output", str(tmp_path / "file")])
    assert "expected a directory" in capsys.readouterr().err
