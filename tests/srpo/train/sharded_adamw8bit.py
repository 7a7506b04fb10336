"""Ranks that step a small sharded model with AdamW8bit, for a test: start, save, load, go on."""

import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from srpo.train.adamw8bit import AdamW8bit, first_row, local
from srpo.train.gradients import GradientSums, clip_gradient

SHAPES = {"even": (64, 300), "odd": (97, 64), "narrow": (2, 4096), "vector": (97,)}


class Model(torch.nn.Module):
    """Matrices that 3 ranks cannot share evenly, and one with fewer rows than ranks."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in SHAPES.items():
            setattr(self, name, torch.nn.Parameter(torch.randn(shape, generator=generator).bfloat16()))


def steps(rank: int, ranks: int, port: int, load: Path | None, first: int, last: int, save: Path) -> None:
    """Steps ``first`` to ``last`` with gradients that depend on the step alone, from the checkpoint ``load`` on."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    model = Model()
    if ranks > 1:
        fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)))
    optimizer = AdamW8bit(model.named_parameters(), 5, 1e-2, (0.9, 0.999), 1e-2)
    GradientSums(list(model.parameters()))

    def state() -> dict[str, object]:
        weights, moments = get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": moments}

    if load:
        dcp.load(state(), checkpoint_id=load)
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for name, parameter in model.named_parameters():
            whole = torch.randn(SHAPES[name], generator=generator)
            kept = parameter.detach().float().clone()
            start = first_row(parameter)
            local(kept).copy_(whole[start : start + len(local(parameter))])
            parameter.grad = kept
        clip_gradient(list(model.parameters()), 1e9)
        optimizer.step()
    dcp.save(state(), checkpoint_id=save)
    dist.destroy_process_group()
