"""What reads FLUX's original layout: diffusers' own loader, for models of any width, and fp8 by its scales."""

import inspect

import torch
from diffusers.loaders import single_file_model, single_file_utils

CONVERTER = "convert_flux_transformer_checkpoint_to_diffusers"


def narrow_loader(monkeypatch, width):
    """Let diffusers' loader take a FLUX of another width: its own code, but for the one number that it fixes."""
    source = inspect.getsource(getattr(single_file_utils, CONVERTER))
    assert source.count("inner_dim = 3072") == 1
    names = vars(single_file_utils).copy()
    exec(source.replace("inner_dim = 3072", f"inner_dim = {width}"), names)
    flux = single_file_model.SINGLE_FILE_LOADABLE_CLASSES["FluxTransformer2DModel"]
    monkeypatch.setitem(flux, "checkpoint_mapping_fn", names[CONVERTER])


def unscaled(tensors):
    """A file in fp8 with scales as a reader takes it: each matrix times its scale, under the same names."""
    scales = {name.removesuffix("scale_weight") + "weight" for name in tensors if name.endswith(".scale_weight")}
    found = {}
    for name, value in tensors.items():
        if name in scales:
            found[name] = value.float() * tensors[name.removesuffix("weight") + "scale_weight"]
        elif name != "scaled_fp8" and not name.endswith(".scale_weight"):
            found[name] = value.to(torch.float32)
    return found
