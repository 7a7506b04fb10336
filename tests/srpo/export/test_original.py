"""FLUX's original layout: frozen names, every bit in its place, fp8 within its rounding, and diffusers' own loader."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from srpo.core.backbones.flux_layout import layout
from srpo.core.contracts.errors import InputError
from srpo.core.storage.tensor_files import Spec, TensorFolder, read_header, write_tensors
from srpo.export import original
from srpo.export.original import check_original, write_original

KEYS = Path(__file__).parent / "flux_original_keys.txt"
TINY = Path(original.__file__).parents[1] / "tiny" / "weights" / "flux" / "transformer"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def config(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The tiny transformer in both kinds of single files, and its own weights."""
    folder = tmp_path_factory.mktemp("original")
    for fp8 in (False, True):
        write_original([TINY / WEIGHTS], config(TINY), folder / f"{fp8}.safetensors", fp8)
    return load_file(folder / "False.safetensors"), load_file(folder / "True.safetensors"), load_file(TINY / WEIGHTS)


def test_the_names_are_those_of_the_original_release():
    """The frozen list has one block of each kind; FLUX.1-dev has 19 and 38, and 780 tensors."""
    frozen = KEYS.read_text().split()
    assert sorted(target.name for target in layout(1, 1, guidance=True)) == frozen
    assert len(layout(19, 38, guidance=True)) == 780
    without = {target.name for target in layout(1, 1, guidance=False)}
    assert set(frozen) - without == {name for name in frozen if name.startswith("guidance_in")}


def test_bfloat16_has_every_bit_where_it_belongs(tiny):
    made, _, weights = tiny
    assert {tensor.dtype for tensor in made.values()} == {torch.bfloat16}
    assert sum(tensor.numel() for tensor in made.values()) == sum(tensor.numel() for tensor in weights.values())
    block = "transformer_blocks.1.attn"
    qkv = torch.cat([weights[f"{block}.{name}.weight"] for name in ("to_q", "to_k", "to_v")])
    assert torch.equal(made["double_blocks.1.img_attn.qkv.weight"], qkv)
    context = torch.cat([weights[f"{block}.{name}.bias"] for name in ("add_q_proj", "add_k_proj", "add_v_proj")])
    assert torch.equal(made["double_blocks.1.txt_attn.qkv.bias"], context)
    block = "single_transformer_blocks.0"
    names = (f"{block}.attn.to_q", f"{block}.attn.to_k", f"{block}.attn.to_v", f"{block}.proj_mlp")
    assert torch.equal(made["single_blocks.0.linear1.weight"], torch.cat([weights[f"{name}.weight"] for name in names]))
    scale, shift = weights["norm_out.linear.weight"].chunk(2)
    assert torch.equal(made["final_layer.adaLN_modulation.1.weight"], torch.cat([shift, scale]))
    assert torch.equal(made["img_in.weight"], weights["x_embedder.weight"])


def test_fp8_is_within_half_a_step_and_uses_the_whole_range(tiny):
    made, small, _ = tiny
    assert small["scaled_fp8"].shape == (2,)
    quantised = [name for name, tensor in small.items() if tensor.dtype == torch.float8_e4m3fn and tensor.dim() == 2]
    assert len(quantised) == 2 * 10 + 2 * 3
    for name in quantised:
        scale = small[name.removesuffix("weight") + "scale_weight"]
        assert (scale.dtype, scale.shape) == (torch.float32, ())
        stored, value = small[name].float(), made[name].float()
        assert stored.abs().max() == 448
        assert ((stored * scale - value).abs() <= torch.clamp(value.abs(), min=scale * 2**-6) / 16 * 1.001).all()
    for name in set(small) - set(quantised) - {"scaled_fp8"}:
        if not name.endswith("scale_weight"):
            assert torch.equal(small[name], made[name])


def test_the_conversion_of_dtypes_is_torchs(tmp_path):
    values = torch.cat([torch.linspace(-500, 500, 4001), torch.logspace(-12, 2, 500), torch.zeros(1)])
    for dtype, theirs in ((ml_dtypes.bfloat16, torch.bfloat16), (ml_dtypes.float8_e4m3fn, torch.float8_e4m3fn)):
        given = values.clamp(-448, 448)
        ours = torch.from_numpy(given.numpy().astype(dtype).astype(np.float32))
        assert torch.equal(ours, given.to(theirs).float())


def test_files_of_several_shards_and_dtypes_are_read(tmp_path):
    tensors = {"a": torch.rand(3, 5), "b": torch.rand(4).bfloat16(), "c": torch.rand(2, 2).half()}
    save_file({"a": tensors["a"]}, tmp_path / "1.safetensors")
    save_file({name: tensors[name] for name in "bc"}, tmp_path / "2.safetensors")
    folder = TensorFolder(sorted(tmp_path.glob("*.safetensors")))
    specs = [folder.spec(name) for name in "abc"]
    write_tensors(tmp_path / "all.safetensors", specs, (folder.read(name) for name in "abc"))
    for name, tensor in load_file(tmp_path / "all.safetensors").items():
        assert torch.equal(tensor, tensors[name])
    with safe_open(tmp_path / "all.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_what_is_no_flux_transformer_is_refused(tmp_path):
    with pytest.raises(InputError, match="QwenImageTransformer2DModel: the original layout must be of a Flux"):
        write_original([], {"_class_name": "QwenImageTransformer2DModel"}, tmp_path / "x", fp8=False)
    weights = load_file(TINY / WEIGHTS)
    for change, words in (
        (lambda: weights.pop("x_embedder.bias"), "lacks 'x_embedder.bias'"),
        (lambda: weights.update({"x_embedder.bias": torch.zeros(128), "strange": torch.zeros(1)}), "has 'strange'"),
        (lambda: (weights.pop("strange"), weights["proj_out.bias"].fill_(float("nan"))), "must be finite"),
    ):
        change()
        save_file(weights, tmp_path / "w.safetensors")
        with pytest.raises(InputError, match=words):
            write_original([tmp_path / "w.safetensors"], config(TINY), tmp_path / "x.safetensors", fp8=False)


def test_files_that_are_cut_are_refused(tmp_path):
    data = (TINY / WEIGHTS).read_bytes()
    for cut in (b"", data[:7], data[:500], data[:-1], b"\xff" * 64):
        (tmp_path / "w.safetensors").write_bytes(cut)
        with pytest.raises(InputError, match=r"w\.safetensors cannot be read as safetensors"):
            read_header(tmp_path / "w.safetensors")


def test_a_bit_that_flipped_on_the_disk_is_found_before_publication(tmp_path):
    source = TensorFolder([TINY / WEIGHTS])
    targets = layout(2, 2, guidance=True)
    for fp8 in (False, True):
        path = tmp_path / "x.safetensors"
        write_original([TINY / WEIGHTS], config(TINY), path, fp8)
        offset = next(at for spec, at in read_header(path) if spec.name == "double_blocks.1.txt_mlp.2.weight")
        data = bytearray(path.read_bytes())
        data[offset + 1] ^= 0x40
        path.write_bytes(data)
        with pytest.raises(OSError, match=r"double_blocks\.1\.txt_mlp\.2\.weight is not what was to be written"):
            check_original(path, source, targets)


def test_specs_know_their_size():
    assert Spec("a", "BF16", (3, 5)).size == 30
    assert Spec("a", "F32", ()).size == 4


@pytest.mark.real
def test_diffusers_own_loader_reads_the_file_of_a_model_as_wide_as_flux(tmp_path):
    """3072 wide, one block of each kind: what the loader makes of the single file is the model, bit by bit."""
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    assert model.inner_dim == 3072
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.uniform_(-1, 1)
    model.save_pretrained(tmp_path / "model", max_shard_size="500MB")
    files = sorted((tmp_path / "model").glob("*.safetensors"))
    assert len(files) > 1
    write_original(files, config(tmp_path / "model"), tmp_path / "single.safetensors", fp8=False)
    loaded = FluxTransformer2DModel.from_single_file(
        str(tmp_path / "single.safetensors"), config=str(tmp_path / "model"), torch_dtype=torch.bfloat16
    )
    expected = model.state_dict()
    found = loaded.state_dict()
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
