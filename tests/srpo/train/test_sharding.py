"""What stands in memory on a rank: each weight once where nothing has to be cast or gathered."""

import gc

import pytest
import torch
import torch.distributed as dist
from tiny_runs import TRAIN

from srpo.core.backbones.flux import Flux
from srpo.core.contracts.config import from_mapping
from srpo.core.storage.models import read_models
from srpo.train import sharding
from srpo.train.config import Config
from srpo.train.sharding import (
    check_sharding,
    check_start,
    class_of,
    drop_gathered,
    gather,
    read_weights,
    sharded_transformer,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def held():
    """Bytes of all tensors that are alive, each storage once."""
    gc.collect()
    storages = [found.untyped_storage() for found in gc.get_objects() if type(found) in TENSORS]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


TENSORS = (torch.Tensor, torch.nn.Parameter)


@pytest.mark.parametrize(
    ("settings", "bytes_a_weight"),
    [
        ({"lora_rank": 2, "compute_dtype": "bfloat16"}, 2),
        ({"precision": "bf16_stochastic", "compute_dtype": "bfloat16"}, 2),
        ({"compute_dtype": "float32"}, 4),
        ({"compute_dtype": "bfloat16"}, 4 + 2),  # float32 masters, and what is gathered
    ],
)
def test_a_weight_stands_once_where_nothing_is_cast_even_when_gathered(tiny_run, one_rank, settings, bytes_a_weight):
    folder = read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"].folder / "transformer"
    base = read_weights(folder)
    numbers = sum(value.numel() for value in base.values())
    before = held()
    config = from_mapping(Config, TRAIN | settings, "train")
    model = sharded_transformer(config, Flux, folder, CPU)
    gather(model)
    assert (held() - before) / numbers == pytest.approx(bytes_a_weight, rel=0.12), "an adapter is 5 % of the tiny base"
    drop_gathered(model)
    assert class_of(model) == "FluxTransformer2DModel", "sharding renames the class, and a config.json must not"
    for name, value in model.state_dict().items():
        if ".lora_" not in name:
            kept = value.full_tensor() if hasattr(value, "full_tensor") else value
            assert torch.equal(kept.float(), base[name.replace(".base_layer.", ".")].float()), name


def test_weights_other_than_those_that_are_sampled_are_found_before_the_first_step(tiny_run, one_rank, monkeypatch):
    folder = read_models(tiny_run.artifacts["models"], tiny_run.workspace)["base"].folder / "transformer"
    for settings in ({}, {"lora_rank": 2, "compute_dtype": "bfloat16"}, {"lora_rank": 2, "quantised_base": True}):
        config = from_mapping(Config, TRAIN | settings, "train")
        check_start(config, sharded_transformer(config, Flux, folder, CPU), Flux, folder)
    stale = read_weights(folder)
    stale["proj_out.bias"] = stale["proj_out.bias"] + 1
    monkeypatch.setattr(sharding, "read_weights", lambda folder: stale)
    model = sharded_transformer(config, Flux, folder, CPU)
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match=r"another 'proj_out\.bias' than the one that is sampled as the base"):
        check_start(config, model, Flux, folder)


def test_a_trained_parameter_that_is_not_on_all_ranks_is_found():
    with pytest.raises(RuntimeError, match="weight is sharded over 1 ranks, 2 have joined"):
        check_sharding(torch.nn.Linear(2, 2), 2)
