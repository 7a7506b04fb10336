"""What a gradient pass keeps and what it computes again: chosen by memory, and the same gradient either way.

The references: torch's own gradients, and the trainer's whole step followed on fake tensors (benchmarks/weightless.py).
"""

import dataclasses

import pytest
import torch
from diffusers import FluxTransformer2DModel
from random_models import FLUX1, FLUX1_VAE, MODELS, VIT_H, described
from train_memory import allocated, settings
from weightless import META, peaks, weightless

from srpo.core.contracts.errors import InputError
from srpo.train import cost
from srpo.train.config import Config
from srpo.train.memory import Kept, choose_kept, memory_parts
from srpo.train.sharding import recompute_blocks

GIB = 2**30
SMALL = MODELS["flux1-small"]
# FLUX.1's own widths, and few layers.
SHALLOW = cost.Models(FLUX1 | {"num_layers": 2, "num_single_layers": 3}, FLUX1_VAE, VIT_H | {"num_hidden_layers": 4})
LORA = {"lora_rank": 32, "reward_dtype": "bfloat16"}
FULL = {"precision": "bf16_stochastic"}
NOTHING = Kept(0, decoder=False)


def one_sample(**settings):
    """The published settings, one sample at a time; a rollout of one call, since more calls hold no more."""
    return Config(**{"rollout_steps": 1, "micro_batch_size": 1, "batch_size": 1, "trackers": ()} | settings)


def test_blocks_that_are_computed_again_give_the_same_gradient_bit_for_bit():
    torch.manual_seed(0)
    model = FluxTransformer2DModel(**SMALL.transformer).train()
    inputs = {
        "hidden_states": torch.randn(1, 16, 64),
        "timestep": torch.tensor([0.7]),
        "guidance": torch.tensor([3.5]),
        "encoder_hidden_states": torch.randn(1, 8, 32),
        "pooled_projections": torch.randn(1, 16),
        "img_ids": torch.zeros(16, 3),
        "txt_ids": torch.zeros(8, 3),
    }
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    calls = []
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda module, inputs, number=number: calls.append(number))
    found = {}
    for kept in (5, 3, 0):
        model.zero_grad()
        calls.clear()
        recompute_blocks(model, kept)
        model(**inputs).sample.square().sum().backward()
        assert sorted(calls) == sorted([*range(5), *range(5 - kept)]), "the last ones are kept"
        found[kept] = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    for kept in (3, 0):
        assert all(torch.equal(*pair) for pair in zip(found[5], found[kept], strict=True))


@pytest.mark.parametrize(
    ("method", "kept"),
    [
        (LORA, NOTHING),
        (LORA, Kept(5, decoder=True)),
        (LORA | {"quantised_base": True}, Kept(2, decoder=False)),
        (FULL, Kept(2, decoder=False)),
        ({"processes": 8, "batch_size": 8}, Kept(5, decoder=True)),
    ],
)
def test_the_estimate_is_never_below_what_a_step_holds_and_near_it(tmp_path, method, kept):
    config = one_sample(**method)
    said = sum(memory_parts(config, described(tmp_path, SHALLOW), config.processes, kept).values())
    held = max(peaks(config, SHALLOW, kept).values())
    assert held <= said < 1.2 * held


@pytest.mark.parametrize("kept", [NOTHING, Kept(4, decoder=True)])
def test_a_step_that_is_followed_holds_what_a_real_one_allocates(kept):
    config = settings("tiny", 32, {})
    followed = max(peaks(config, MODELS["tiny"], kept).values())
    assert allocated(config, MODELS["tiny"], kept) == pytest.approx(followed, rel=0.05)


@pytest.mark.real
def test_the_whole_of_flux_with_a_quantised_base_leaves_room_on_a_gpu_of_24_gib(tmp_path):
    config = one_sample(**LORA, quantised_base=True)
    held = max(peaks(config, MODELS["flux1"], NOTHING).values())
    assert held < 20 * GIB
    assert held <= sum(memory_parts(config, described(tmp_path, MODELS["flux1"]), 1, NOTHING).values()) < 1.1 * held


def test_as_much_is_kept_as_fits_and_no_more(tmp_path):
    folders, config = described(tmp_path, SHALLOW), one_sample(**LORA)

    def need(kept):
        return sum(memory_parts(config, folders, 1, kept).values())

    steps = [*(Kept(number, decoder=False) for number in range(6)), Kept(5, decoder=True)]
    assert [need(kept) for kept in steps] == sorted(need(kept) for kept in steps)
    for kept in steps:
        free = int(need(kept) / 0.9) + 2
        assert choose_kept(config, folders, 1, free) == kept
    assert choose_kept(config, folders, 1, need(NOTHING)) == NOTHING, "without a choice all of the memory may go"
    with pytest.raises(InputError, match="training needs about"):
        choose_kept(config, folders, 1, need(NOTHING) - 1)


def test_a_setting_decides_where_one_wants_it_to(tmp_path):
    folders, plenty = described(tmp_path, SHALLOW), 1000 * GIB
    always = one_sample(**LORA, gradient_checkpointing="always")
    assert choose_kept(always, folders, 1, plenty) == NOTHING
    never = dataclasses.replace(always, gradient_checkpointing="never")
    assert choose_kept(never, folders, 1, plenty) == Kept(5, decoder=True)
    with pytest.raises(InputError, match="another gradient_checkpointing than never"):
        choose_kept(never, folders, 1, sum(memory_parts(never, folders, 1, NOTHING).values()))


@pytest.mark.parametrize(
    "settings",
    [
        FULL,
        {"injections": 2, "micro_batch_size": 4, "batch_size": 4, "late_weighting": True, "interval_per_sample": True},
        {"words_per": "sample", "shared_noise": False, "batch_size": 2},
        {"method": "refl"},
        {"method": "draft"},
        {"method": "draft_lv"},
    ],
)
def test_no_part_of_a_step_is_on_another_device(settings):
    """On the meta device, which like a GPU takes no part in a product with a tensor of the CPU."""
    dtype = {} if "precision" in settings else {"compute_dtype": "float32"}
    with weightless(
        one_sample(**{"resolution": 32, "rollout_steps": 3} | dtype | settings), SMALL, NOTHING, META
    ) as run:
        sums = run(0)
    assert {"loss", "seconds_backward", "seconds_optimizer"} <= set(sums)
    assert all(parameter.is_meta for parameter in run.trained)
