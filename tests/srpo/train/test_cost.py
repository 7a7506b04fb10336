"""The time model's operation counts against torch's own counter, on the real classes."""

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from random_models import FLUX1, FLUX1_VAE, MODELS, VIT_H
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from srpo.train import cost
from srpo.train.config import Config
from srpo.train.memory import Kept

SMALL = FLUX1 | {"num_layers": 2, "num_single_layers": 3, "attention_head_dim": 32, "axes_dims_rope": (8, 12, 12)}
FLUX_DEV, AGAIN = MODELS["flux1"], Kept(0, decoder=False)


def counted(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def forward(model, image, text, batch=1):
    config = model.config
    x = torch.zeros(batch, image, config.in_channels)
    return model(
        hidden_states=x,
        timestep=torch.ones(batch),
        guidance=torch.ones(batch) if config.guidance_embeds else None,
        encoder_hidden_states=torch.zeros(batch, text, config.joint_attention_dim),
        pooled_projections=torch.zeros(batch, config.pooled_projection_dim),
        img_ids=torch.zeros(image, 3),
        txt_ids=torch.zeros(text, 3),
    ).sample


@pytest.mark.parametrize(
    ("settings", "image", "text"),
    [
        (SMALL | {"num_attention_heads": 2}, 16, 16),
        (SMALL | {"num_attention_heads": 5, "joint_attention_dim": 96, "pooled_projection_dim": 40}, 36, 7),
        (SMALL | {"num_attention_heads": 3, "guidance_embeds": False, "num_layers": 1}, 64, 20),
    ],
)
def test_a_forward_of_the_transformer_is_counted_exactly(settings, image, text):
    with torch.device("meta"):
        model = FluxTransformer2DModel(**settings)
        assert counted(lambda: forward(model, image, text)) == cost.transformer_flops(settings, image, text)


def test_flux_at_its_full_size_is_37_tflop_a_forward():
    with torch.device("meta"):
        model = FluxTransformer2DModel(**FLUX1)
        found = counted(lambda: forward(model, 2025, 512))
    assert found == cost.transformer_flops(FLUX1, cost.image_tokens(FLUX_DEV, 720), 512)
    assert found == pytest.approx(37.3e12, rel=0.005)


@pytest.mark.parametrize(
    ("settings", "resolution"),
    [
        (FLUX1_VAE, 720),
        (FLUX1_VAE, 1024),
        (FLUX1_VAE | {"block_out_channels": (16, 32, 64), "layers_per_block": 1}, 32),
    ],
)
def test_the_decoder_is_counted_exactly(settings, resolution):
    levels = len(settings["block_out_channels"])
    with torch.device("meta"):
        up, down = ("UpDecoderBlock2D",) * levels, ("DownEncoderBlock2D",) * levels
        vae = AutoencoderKL(**settings | {"up_block_types": up, "down_block_types": down, "norm_num_groups": 8})
        side = resolution // 2 ** (levels - 1)
        found = counted(lambda: vae.decode(torch.zeros(1, 16, side, side)))
    assert found == cost.decoder_flops(settings, resolution)


@pytest.mark.parametrize("settings", [VIT_H, VIT_H | {"hidden_size": 96, "image_size": 42, "num_hidden_layers": 3}])
def test_the_reward_is_counted_exactly(settings):
    with torch.device("meta"):
        tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**settings))
        size = settings["image_size"]
        found = counted(lambda: tower(torch.zeros(1, 3, size, size)))
    assert found == cost.tower_flops(settings)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_backward_pass_costs_two_forwards_or_three(checkpointed):
    """But for what needs no gradient (the first inputs) and attention's own recomputation, some per cent each."""
    settings = SMALL | {"num_attention_heads": 4}
    with torch.device("meta"):
        model = FluxTransformer2DModel(**settings).train()
        if checkpointed:
            model.enable_gradient_checkpointing()
        once = cost.transformer_flops(settings, 64, 64)
        found = counted(lambda: forward(model, 64, 64, batch=2).sum().backward()) / 2
    assert found == pytest.approx((4 if checkpointed else 3) * once, rel=0.1)


def test_a_sample_as_published_is_about_1_3_pflop_and_three_quarters_of_it_rollout():
    flops = cost.step_flops(Config(), FLUX_DEV, AGAIN)
    assert set(flops) == set(cost.PHASES)
    assert sum(flops.values()) == pytest.approx(1.3e15, rel=0.05)
    assert 0.65 < flops["rollout"] / sum(flops.values()) < 0.8
    # The floor of a whole run: 20 steps of 32 prompts at the 788 TFLOP/s of a bfloat16 product on one H200.
    seconds = 640 * sum(cost.step_seconds(flops, 788e12, 1.0).values())
    assert 16 * 60 < seconds < 19 * 60


def test_injections_share_the_rollout_and_lora_spares_a_forward():
    one, four = cost.step_flops(Config(), FLUX_DEV, AGAIN), cost.step_flops(Config(injections=4), FLUX_DEV, AGAIN)
    assert four["rollout"] == one["rollout"]
    assert four["backward"] == 4 * one["backward"]
    lora = cost.step_flops(Config(lora_rank=32), FLUX_DEV, AGAIN)
    model = cost.transformer_flops(FLUX1, 2025, 512)
    assert one["backward"] - lora["backward"] == 2 * model


def test_what_is_kept_is_not_computed_again():
    again, half = cost.step_flops(Config(), FLUX_DEV, AGAIN), cost.step_flops(Config(), FLUX_DEV, Kept(19, False))
    never = cost.step_flops(Config(), FLUX_DEV, Kept(57, decoder=True))
    model, decoder = cost.transformer_flops(FLUX1, 2025, 512), cost.decoder_flops(FLUX_DEV.vae, 720)
    assert again["backward"] - half["backward"] == pytest.approx(2 * model / 3)
    assert again["backward"] - never["backward"] == pytest.approx(2 * (model + decoder))


def test_ranks_gather_what_is_trained_only():
    full = cost.traffic_bytes(Config(), 12_000_000_000, 8)
    assert full == {"gathered": 2 * 24e9 * 7 / 8, "reduced": 2 * 48e9 * 7 / 8}
    assert sum(cost.traffic_bytes(Config(lora_rank=32), 12_000_000_000, 8, 40_000_000).values()) < 0.5e9
    assert sum(cost.traffic_bytes(Config(), 12_000_000_000, 1).values()) == 0
