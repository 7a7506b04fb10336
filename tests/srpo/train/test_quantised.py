"""A base in eight bits under LoRA: nearly the same velocities, exact gradients, a quarter of the memory."""

import pytest
import torch
from safetensors.torch import load_file
from test_ranks import ALWAYS, history, train, weights, weights_folder
from test_sharding import one_rank  # noqa: F401
from tiny_runs import TRAIN

from srpo.core.backbones.flux import Flux
from srpo.core.contracts.config import from_mapping
from srpo.core.contracts.errors import InputError
from srpo.core.storage.models import read_models
from srpo.train import memory
from srpo.train.background import writing
from srpo.train.checkpoints import save_checkpoint
from srpo.train.config import Config
from srpo.train.quantised import Int8Linear, quantised
from srpo.train.sharding import MovingAverage, make_optimizer, read_weights, sharded_transformer

LORA = {"lora_rank": 4, "lora_alpha": 8.0, "learning_rate": 1e-2}


def base_of(run):
    return read_models(run.artifacts["models"], run.workspace)["base"].folder / "transformer"


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_a_matrix_is_off_by_half_a_step_of_its_row_at_most(scale):
    matrix = scale * torch.randn(48, 32, generator=torch.Generator().manual_seed(0))
    matrix[3] = 0
    whole, scales = quantised(matrix)
    assert ((whole * scales - matrix).abs() <= 0.5001 * matrix.abs().amax(1, keepdim=True) / 127).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_that_of_the_quantised_matrix(dtype):
    torch.manual_seed(0)
    linear = torch.nn.Linear(32, 48)
    layer = Int8Linear(linear)
    layer.weight, layer.weight_scale = quantised(linear.weight.detach())
    plain = torch.nn.functional.linear
    x, again = (torch.randn(5, 7, 32, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2))
    seed = torch.randn(5, 7, 48)
    out = layer(x.to(dtype))
    wanted = plain(again, layer.weight * layer.weight_scale, linear.bias.detach())
    out.float().backward(seed)
    wanted.backward(seed)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.03, "atol": 0.03}
    torch.testing.assert_close(out.float(), wanted, **close)
    torch.testing.assert_close(x.grad, again.grad, **close)


def test_the_base_takes_a_byte_a_number_and_moves_the_velocity_little(tiny_run, one_rank):  # noqa: F811
    folder = base_of(tiny_run)
    base, found = read_weights(folder), {}
    for quantised_base in (False, True):
        settings = TRAIN | {"lora_rank": 2, "compute_dtype": "float32", "quantised_base": quantised_base}
        config = from_mapping(Config, settings, "train")
        model = sharded_transformer(config, Flux, folder, torch.device("cpu")).eval()
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            velocity = model(
                hidden_states=torch.randn(1, 16, model.config.in_channels, generator=generator),
                timestep=torch.tensor([0.7]),
                guidance=torch.tensor([3.5]),
                encoder_hidden_states=torch.randn(1, 16, model.config.joint_attention_dim, generator=generator),
                pooled_projections=torch.randn(1, model.config.pooled_projection_dim, generator=generator),
                img_ids=torch.zeros(16, 3),
                txt_ids=torch.zeros(16, 3),
                return_dict=False,
            )[0]
        frozen = [*(p for p in model.parameters() if not p.requires_grad), *model.buffers()]
        found[quantised_base] = velocity, sum(tensor.numel() * tensor.element_size() for tensor in frozen)
    difference = (found[True][0] - found[False][0]).norm() / found[False][0].norm()
    assert 0 < difference < 0.03
    numbers, eight = sum(value.numel() for value in base.values()), memory.quantised_count(folder)
    predicted = memory.weight_bytes(config, numbers, 1, 0, eight)["frozen weights"]
    assert eight > 0.85 * numbers
    assert predicted <= found[True][1] < 1.1 * predicted, "the scales come on top: one for each row"
    assert found[True][1] < 0.35 * found[False][1]


def test_what_ships_is_the_base_as_it_is_with_the_adapter(tiny_run):
    options = ALWAYS | LORA | {"quantised_base": True, "processes": 2, "compute_dtype": "bfloat16"}
    checkpoint = train(tiny_run, "quantised", **options | {"gradient_checkpointing": "always"})
    shipped, base = weights(tiny_run, checkpoint), read_weights(base_of(tiny_run))
    adapter = load_file(weights_folder(tiny_run, checkpoint) / "lora" / "pytorch_lora_weights.safetensors")
    assert shipped.keys() == base.keys()
    moved = 0
    for name, value in shipped.items():
        a, b = (adapter.get(f"transformer.{name.removesuffix('.weight')}.lora_{part}.weight") for part in "AB")
        wanted = base[name].float() + (0 if a is None else b @ a)
        assert torch.equal(value, wanted.to(torch.bfloat16)), name
        moved += not torch.equal(value, base[name].to(torch.bfloat16))
    assert moved
    assert all(0 < row["grad_norm"] < 100 for row in history(checkpoint)[1:])


def test_a_checkpoint_holds_the_adapter_alone(tiny_run, one_rank, tmp_path):  # noqa: F811
    settings = TRAIN | {"lora_rank": 2, "compute_dtype": "bfloat16", "quantised_base": True}
    config = from_mapping(Config, settings, "train")
    model = sharded_transformer(config, Flux, base_of(tiny_run), torch.device("cpu"))
    optimizer, average = make_optimizer(config, model), MovingAverage(model, 0.0)
    with writing(torch.device("cpu")) as writer:
        save_checkpoint(writer, tmp_path / "step-000001", model, optimizer, average, {})
    size = sum(path.stat().st_size for path in (tmp_path / "step-000001").iterdir())
    adapter = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert size < 12 * adapter + 300_000 < memory.quantised_count(base_of(tiny_run)), (
        "masters, moments, what names them"
    )


def test_without_lora_there_is_no_frozen_base():
    with pytest.raises(InputError, match="quantised_base is True: it must be false without lora_rank"):
        Config(quantised_base=True)
