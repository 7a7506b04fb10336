"""Our rollout, packing, encoding and decoding against diffusers' own FluxPipeline, on small models of its classes."""

import math

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from srpo.core.backbones.conditioning import Conditioning
from srpo.core.backbones.flux import Flux
from srpo.core.backbones.pipelines import check_folder
from srpo.core.contracts.errors import InputError
from srpo.core.objective.direct_align import euler_rollout


def small_models(guidance_embeds=True):
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    ).eval()
    vae = AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=16,
        norm_num_groups=2,
        layers_per_block=1,
        shift_factor=0.1,
        scaling_factor=0.4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    return transformer, vae


# As released: dev and Krea shift by the size of the image, schnell not at all.
SCHEDULERS = {
    "dev": {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "shift": 3.0},
    "schnell": {"use_dynamic_shifting": False, "shift": 1.0},
}


@pytest.mark.parametrize(("height", "width"), [(32, 32), (48, 24)])
@pytest.mark.parametrize("true_guidance", [1.0, 2.5])
@pytest.mark.parametrize("shift", [3.0, None])
@pytest.mark.parametrize("variant", ["dev", "schnell"])
def test_rollout_and_decode_equal_the_pipeline(variant, shift, true_guidance, height, width):
    """With a static shift and with the model's own schedule; guidance embedded, true, or none."""
    transformer, vae = small_models(guidance_embeds=variant == "dev")
    own = FlowMatchEulerDiscreteScheduler(**SCHEDULERS[variant])
    static = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = FluxPipeline(own if shift is None else static, vae, None, None, None, None, transformer)
    pipeline.set_progress_bar_config(disable=True)
    flux = Flux(transformer, vae, scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULERS[variant]))
    negative = Conditioning(torch.randn(1, 7, 24), torch.randn(1, 20))
    condition = Conditioning(torch.randn(2, 7, 24), torch.randn(2, 20), negative)
    noise = flux.pack(torch.randn(2, 16, height // flux.vae_scale, width // flux.vae_scale))
    expected = pipeline(
        prompt_embeds=condition.prompt_embeds,
        pooled_prompt_embeds=condition.pooled,
        negative_prompt_embeds=negative.prompt_embeds.expand(2, -1, -1),
        negative_pooled_prompt_embeds=negative.pooled.expand(2, -1),
        true_cfg_scale=true_guidance,
        latents=noise,
        height=height,
        width=width,
        num_inference_steps=5,
        guidance_scale=3.5,
        output_type="pt",
    ).images
    with torch.no_grad():
        x0 = euler_rollout(
            lambda x, sigma: flux.velocity(x, sigma, condition, 3.5, height, width, true_guidance),
            noise,
            flux.sigmas(5, shift, height, width),
        )
        found = flux.decode(x0, height, width)
    assert noise.shape[1:] == flux.latent_shape(height, width)
    torch.testing.assert_close(found.clamp(0, 1), expected, rtol=0, atol=2e-5)


def test_schedules_differ_where_they_should():
    """Dynamic shifting grows with the image and ends at the released values; schnell's steps are even."""
    dev, schnell = (
        Flux(*small_models(), scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULERS[name])) for name in SCHEDULERS
    )
    torch.testing.assert_close(schnell.sigmas(4, None, 64, 64), torch.tensor([1, 0.75, 0.5, 0.25, 0]).double())
    unit = 2 * dev.vae_scale
    for tokens, mu in (((16, 16), 0.5), ((64, 64), 1.15)):  # 256 x 256 and 1024 x 1024 pixels of a FLUX.1 image
        found = dev.sigmas(5, None, tokens[0] * unit, tokens[1] * unit)
        torch.testing.assert_close(found, dev.sigmas(5, math.exp(mu), 8, 8), rtol=0, atol=1e-6)


def test_true_guidance_needs_the_negative_prompt():
    flux, x = Flux(*small_models()), torch.randn(1, 16, 64)
    condition = Conditioning(torch.randn(1, 7, 24), torch.randn(1, 20))
    with pytest.raises(InputError, match=r"guidance is 2\.5.*negative prompt"):
        flux.velocity(x, torch.tensor([0.9]), condition, 3.5, 16, 16, 2.5)


def test_the_velocity_sees_the_exact_sigma():
    """A sigma rounded to a whole timestep of 1000 would make these two calls equal."""
    transformer, vae = small_models()
    flux = Flux(transformer, vae)
    condition = Conditioning(torch.randn(1, 7, 24), torch.randn(1, 20))
    x = torch.randn(1, 16, 64)
    first = flux.velocity(x, torch.tensor([0.9001]), condition, 3.5, 16, 16)
    second = flux.velocity(x, torch.tensor([0.9004]), condition, 3.5, 16, 16)
    assert not torch.equal(first, second)


def test_decoding_does_not_clamp_so_saturated_pixels_get_a_gradient():
    _, vae = small_models()
    with torch.no_grad():  # push the decoder's output far above 1
        vae.decoder.conv_out.bias += 5.0
    flux = Flux(small_models()[0], vae)
    x0 = torch.randn(1, 16, 64, requires_grad=True)
    pixels = flux.decode(x0, 16, 16)
    assert pixels.min() > 1
    pixels.sum().backward()
    assert x0.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in vae.parameters())  # the VAE is frozen


def test_a_decoder_that_computes_its_activations_again_gives_the_same_gradient():
    flux = Flux(*small_models())
    x0 = torch.randn(1, 16, 64)
    gradients, kept = [], []
    for again in (False, True):
        if again:
            flux.recompute_decoder()
        x, saved = x0.clone().requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            pixels = flux.decode(x, 16, 16)
        pixels.square().sum().backward()
        gradients.append(x.grad)
        kept.append(sum(saved))
    assert torch.equal(*gradients)
    assert kept[1] < kept[0] / 2


def test_packing_is_undone_by_unpacking():
    flux = Flux(*small_models())
    latents = torch.randn(2, 16, 12, 8)
    assert torch.equal(flux.unpack(flux.pack(latents), 24, 16), latents)


def test_a_size_that_diffusers_would_cut_is_refused():
    with pytest.raises(InputError, match=r"height is 30.*multiple of 4"):
        Flux(*small_models()).latent_shape(30, 32)


def test_a_folder_without_a_transformer_is_refused(tmp_path):
    for part in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"):
        (tmp_path / part).mkdir()
    with pytest.raises(InputError, match="has no 'transformer'"):
        check_folder(tmp_path)
