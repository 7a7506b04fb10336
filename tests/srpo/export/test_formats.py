"""Every format of every way to train, for each family: made by the export and opened by who uses it."""

import itertools
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel, FluxPipeline, FluxTransformer2DModel, QwenImagePipeline
from qwen_models import small_pipeline
from safetensors.torch import load_file
from single_files import narrow_loader, unscaled

from srpo.core.backbones.flux_layout import layout
from srpo.core.storage.files import list_files
from srpo.core.storage.models import ModelEntry, folder_digest
from srpo.export.contents import weight_items

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))  # where ranks for tests are
import format_ranks
from test_background import spawn

TINY = Path(sys.modules["srpo.export"].__path__[0]).parent / "tiny" / "weights" / "flux"
METHODS = {
    "full": {},
    "lora": {"lora_rank": 2, "lora_alpha": 4.0},
    "bf16_stochastic": {"precision": "bf16_stochastic"},
    "quantised_base": {"lora_rank": 2, "lora_alpha": 4.0, "quantised_base": True},
}
PIPELINES = {"flux": FluxPipeline, "qwen": QwenImagePipeline}
CASES = [
    (family, method, dtype, ranks)
    for family, method, dtype, ranks in itertools.product(PIPELINES, METHODS, ("float32", "bfloat16"), (1, 2))
    if (method, dtype) != ("bf16_stochastic", "float32")  # its weights are bfloat16
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A pipeline folder of each family."""
    qwen = tmp_path_factory.mktemp("qwen") / "pipeline"
    small_pipeline().save_pretrained(qwen)
    return {"flux": TINY, "qwen": qwen}


@pytest.fixture(scope="module", params=[1, 2], ids=["1rank", "2ranks"])
def trained(request, bases, tmp_path_factory):
    """Number of ranks, and the folder in which they left the weights of every case."""
    folder = tmp_path_factory.mktemp("trained")
    cases = {
        f"{family}-{method}-{dtype}": (bases[family], METHODS[method] | {"compute_dtype": dtype})
        for family, method, dtype, ranks in CASES
        if ranks == request.param
    }
    spawn(format_ranks.train_all, request.param, cases, folder)
    return folder


@pytest.mark.real
@pytest.mark.parametrize(("family", "method", "dtype"), sorted({case[:3] for case in CASES}))
def test_every_format_is_exported_and_opened_by_its_consumer(
    trained, bases, family, method, dtype, tmp_path, monkeypatch, caplog
):
    base, workspace = bases[family], trained / f"{family}-{method}-{dtype}"
    entry = ModelEntry(name="base", path=str(base), digest=folder_digest(base), licence="Apache-2.0")
    checkpoint = {"kind": "full", "weights": "weights", "files": list_files(workspace / "weights")}
    formats = ("diffusers", "lora", *(("original-bf16", "original-fp8") if family == "flux" else ()))
    items = weight_items(formats, entry, checkpoint, workspace, tmp_path / "made", dtype)
    for item in items:
        (tmp_path / item.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(item.source, tmp_path / item.path)

    tuned = AutoModel.from_pretrained(str(tmp_path / "model" / "transformer"), torch_dtype=torch.bfloat16)
    before = PIPELINES[family].from_pretrained(base, torch_dtype=torch.float32)
    assert type(tuned) is type(before.transformer)
    after = PIPELINES[family].from_pretrained(tmp_path / "model", torch_dtype=torch.bfloat16).transformer.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in tuned.state_dict().items())
    changed = [
        name
        for name, value in before.transformer.state_dict().items()
        if not torch.equal(value.bfloat16(), after[name])
    ]
    assert len(changed) >= 8, "a step must have changed what is exported"

    assert ("lora" in method or "quantised" in method) == (tmp_path / "lora").is_dir()
    if (tmp_path / "lora").is_dir():
        before.transformer.to(getattr(torch, dtype)).to(torch.float32)  # as the training held it
        before.load_lora_weights(tmp_path / "lora")
        before.fuse_lora()
        before.unload_lora_weights()
        for name, value in before.transformer.state_dict().items():
            assert torch.allclose(value, after[name].float(), rtol=2**-7, atol=1e-6), name

    if family == "flux":
        narrow_loader(monkeypatch, 128)
        single = tmp_path / "single_file"
        settings = {"config": str(tmp_path / "model"), "subfolder": "transformer", "torch_dtype": torch.bfloat16}
        loaded = FluxTransformer2DModel.from_single_file(str(single / "flux-bf16.safetensors"), **settings)
        assert all(torch.equal(value, after[name]) for name, value in loaded.state_dict().items())
        exact, small = (
            load_file(single / "flux-bf16.safetensors"),
            unscaled(load_file(single / "flux-fp8-scaled.safetensors")),
        )
        assert small.keys() == exact.keys() == {target.name for target in layout(2, 2, guidance=True)}
        for name, value in exact.items():
            assert (small[name] - value.float()).abs().max() <= value.float().abs().max() / 16, name
    assert json.loads((tmp_path / "model/transformer/config.json").read_text())["_class_name"] == type(tuned).__name__
