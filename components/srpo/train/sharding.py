"""The transformer over the ranks: FSDP2 sharding, weights read once, checkpoints that are whole or not there."""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from srpo.core.storage.files import appearing, write_json


def sharded_transformer(folder: Path, device: torch.device, compute_dtype: torch.dtype, checkpointing: bool) -> Any:
    """The transformer of ``folder`` with float32 master weights, sharded over all ranks, computing in ``compute_dtype``.

    Only rank 0 reads the weights; the others start from empty shards. Gathered weights are kept between the forwards of a
    rollout and dropped by the backward pass, so that a rollout costs one all-gather and not one a model call.
    """
    with torch.device("meta"):
        model = FluxTransformer2DModel.from_config(FluxTransformer2DModel.load_config(folder))
    model = model.to(torch.float32)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in [*model.transformer_blocks, *model.single_transformer_blocks]:
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    model.to_empty(device=device)
    whole = {name: value.float() for name, value in read_weights(folder).items()} if dist.get_rank() == 0 else {}
    set_model_state_dict(model, whole, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True))
    if checkpointing:
        model.enable_gradient_checkpointing()
    return model.train()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a diffusers model folder, from one safetensors file or its shards (memory mapped)."""
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    return weights


def save_checkpoint(model: Any, optimizer: torch.optim.Optimizer, folder: Path, facts: Mapping[str, Any]) -> None:
    """Save shards of model and optimiser under ``folder``; the folder appears when all ranks are done, by one rename."""
    partial = folder.with_name(f".{folder.name}.partial")
    if dist.get_rank() == 0:
        shutil.rmtree(partial, ignore_errors=True)
    dist.barrier()
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=partial)
    if dist.get_rank() == 0:
        write_json(partial / "facts.json", dict(facts))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    dist.barrier()


def load_checkpoint(model: Any, optimizer: torch.optim.Optimizer, folder: Path) -> dict[str, Any]:
    """Load what :func:`save_checkpoint` saved, on any number of ranks; returns its ``facts``."""
    weights, moments = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": moments}
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return dict(json.loads((folder / "facts.json").read_text(encoding="utf-8")))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint below ``folder``, or None."""
    found = sorted(path for path in folder.glob("step-*") if (path / "facts.json").is_file())
    return found[-1] if found else None


def keep_newest(folder: Path, number: int) -> None:
    """Remove all but the ``number`` newest checkpoints below ``folder`` (rank 0)."""
    if dist.get_rank() == 0:
        for path in sorted(folder.glob("step-*"))[:-number]:
            shutil.rmtree(path)


def save_weights(model: Any, folder: Path) -> None:
    """Write the whole transformer as bfloat16 safetensors in a diffusers folder, from rank 0; it appears whole."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = {name: value.to(torch.bfloat16) for name, value in get_model_state_dict(model, options=options).items()}
    if dist.get_rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)
        with appearing(folder) as partial:
            partial.mkdir()
            model.save_config(partial)
            plan = split_torch_state_dict_into_shards(
                weights, filename_pattern="diffusion_pytorch_model{suffix}.safetensors", max_shard_size="10GB"
            )
            for name, keys in plan.filename_to_tensors.items():
                save_file({key: weights[key].contiguous() for key in keys}, partial / name, {"format": "pt"})
            if plan.is_sharded:
                index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
                write_json(partial / "diffusion_pytorch_model.safetensors.index.json", index)
    dist.barrier()


@contextlib.contextmanager
def process_group(device: torch.device) -> Any:
    """The ranks that torchrun started, joined; gloo on CPUs and nccl on GPUs."""
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
