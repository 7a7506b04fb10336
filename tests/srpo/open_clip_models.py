"""open_clip as the reference: small random models of its own class, saved in the form in which rewards are released."""

import gzip
import importlib
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
import transformers  # noqa: F401  before the stand-in below, which must not make it believe that torchvision is there

# open_clip asks for torchvision, whose image transforms and one layer these tests never use; torch's CPU build has none
# that loads. So it is imported over a stand-in.
STAND_INS = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.ops.misc")

# The widths of a ViT-H/14 made small, its kind of GELU and its heads of other than 64; `quick` are those of OpenAI.
MODEL_CFG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 28, "layers": 2, "width": 40, "head_width": 20, "patch_size": 7},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


def open_clip():
    """The package, or a skip that says what to install."""
    if "open_clip" not in sys.modules:
        pytest.importorskip("ftfy", reason="needs open_clip: make install")
        added = [name for name in STAND_INS if name not in sys.modules]
        sys.modules.update({name: MagicMock() for name in added})
        try:
            importlib.import_module("open_clip")
        except ModuleNotFoundError:
            pytest.skip("needs open_clip: make install")
        finally:
            for name in added:
                del sys.modules[name]
    return sys.modules["open_clip"]


def random_model(seed=0, **changes):
    """``(model, model_cfg)``: open_clip's own CLIP with random weights, all of them (biases too) away from zero."""
    config = MODEL_CFG | changes
    torch.manual_seed(seed)
    model = open_clip().CLIP(**config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name != "logit_scale" and value.ndim == 1:
                value.add_(0.3 * torch.randn_like(value))
            elif "token_embedding" not in name:
                value.mul_(3)  # so that images and texts differ by more than the tolerance of the tests
    return model, config


def vocabulary(folder: Path) -> dict[str, Path]:
    """vocab.json and merges.txt of CLIP, written from the list of merges that open_clip carries."""
    package = open_clip()
    merges = gzip.decompress((Path(package.__file__).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    lines = merges.split("\n")[1 : 49152 - 256 - 2 + 1]
    tokenizer = package.SimpleTokenizer()
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {names.get(token, token): number for token, number in tokenizer.encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return {name: folder / name for name in ("vocab.json", "merges.txt")}


def release(folder: Path, model, config, **preprocess) -> dict[str, Path]:
    """The files of a release, as HPSv2's: a `.pt` whose state_dict is open_clip's; and a configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 1, "name": "small", "state_dict": model.state_dict()}, folder / "small.pt")
    stated = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(stated), encoding="utf-8")
    own = {"weights": folder / "small.pt", "open_clip_config.json": folder / "open_clip_config.json"}
    return own | vocabulary(folder)
