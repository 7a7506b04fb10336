"""Which files of a folder hold its weights: what diffusers and transformers load from odd folders is the reference."""

import json
import shutil

import pytest
import torch
from diffusers import FluxTransformer2DModel
from odd_folders import BASE, CASES, odd_folder
from safetensors.torch import load_file
from transformers import CLIPTextModel

from srpo.core.contracts.errors import InputError
from srpo.core.storage import weights


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("part", "stem", "load"),
    [
        ("transformer", weights.DIFFUSERS, lambda path: FluxTransformer2DModel.from_pretrained(path)),
        ("text_encoder", weights.TRANSFORMERS, lambda path: CLIPTextModel.from_pretrained(path, dtype=torch.float32)),
    ],
)
def test_the_files_are_those_that_the_library_loads(tmp_path, case, part, stem, load):
    folder = tmp_path / part
    odd_folder(part, stem, case, folder)
    found = {}
    for file in weights.weight_files(folder):
        found |= load_file(file)
    loaded = load(folder).state_dict()
    shared = set(loaded) & set(found)
    assert len(shared) > 10
    assert all(torch.equal(loaded[name].float(), found[name].float()) for name in shared)


def test_only_what_is_opened_is_kept_and_what_is_missing_is_named(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(BASE, base, ignore=shutil.ignore_patterns("transformer"))
    odd_folder("transformer", weights.DIFFUSERS, "shards and a stale file", base / "transformer")
    (base / "flux1-dev.safetensors").touch()
    assert weights.unread(base) == {"flux1-dev.safetensors", "transformer/diffusion_pytorch_model.safetensors"}
    assert weights.incomplete(base) == []
    (base / "transformer/diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    assert "-00002-of-00002" in weights.incomplete(base)[0]
    shutil.rmtree(base / "vae")
    assert "vae (missing)" in weights.incomplete(base)


def test_an_index_that_leads_elsewhere_is_refused(tmp_path):
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    for name in ("../x.safetensors", "/x", 1):
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(InputError, match="index"):
            weights.weight_files(tmp_path)
