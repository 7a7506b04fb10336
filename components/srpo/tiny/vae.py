"""The autoencoder of the tiny FLUX: 32 x 32 images to 16 x 8 x 8 latents and back."""

import math
from pathlib import Path

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from srpo.tiny.recipes import Recipe
from srpo.tiny.training import fit, make_pool, round_to_bf16

KL_WEIGHT = 2e-5


def build(seed: int) -> AutoencoderKL:
    """Random weights, with residual branches that start at zero and latents that start almost without noise."""
    torch.manual_seed(seed)
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=1,
        sample_size=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )
    for name, module in model.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        model.encoder.conv_out.bias[16:].fill_(-6.0)
    return model


def train(model: AutoencoderKL, recipe: Recipe) -> dict[str, float]:
    """L1 + 2 MSE + a little KL; afterwards the latents' shift and scale go into the model's config."""
    pool = make_pool(recipe.seed, recipe.examples, uniform_style=True)

    def loss(indices: Tensor, generator: torch.Generator) -> Tensor:
        pixels = pool.pixels[indices] * 2 - 1
        posterior = model.encode(pixels).latent_dist
        rebuilt = model.decode(posterior.sample(generator)).sample
        return F.l1_loss(rebuilt, pixels) + 2 * F.mse_loss(rebuilt, pixels) + KL_WEIGHT * posterior.kl().mean()

    final = fit("vae", recipe, model.parameters(), loss)
    round_to_bf16(model)
    latents = encode_raw(model, pool.pixels[:1000])
    shift, scale = latents.mean().item(), 1 / latents.std().item()
    model.register_to_config(shift_factor=round(shift, 4), scaling_factor=round(scale, 4))

    fresh = make_pool(recipe.seed + 1000, 256, uniform_style=True).pixels
    with torch.no_grad():
        rebuilt = model.decode(encode_raw(model, fresh)).sample / 2 + 0.5
    return {"loss": final, "psnr": -10 * math.log10(F.mse_loss(rebuilt.clamp(0, 1), fresh).item())}


@torch.no_grad()
def encode_raw(model: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Means of the posterior [N, 16, 8, 8], before shift and scale; pixels [N, 3, 32, 32] in [0, 1]."""
    return torch.cat([model.encode(part * 2 - 1).latent_dist.mean for part in pixels.split(100)])


def encode(model: AutoencoderKL, pixels: Tensor) -> Tensor:
    """Latents [N, 16, 8, 8] as the transformer sees them: about zero mean and unit variance."""
    return (encode_raw(model, pixels) - model.config["shift_factor"]) * model.config["scaling_factor"]


def load(path: Path) -> AutoencoderKL:
    """The stored autoencoder in fp32, frozen."""
    model = AutoencoderKL.from_pretrained(path)
    # It would be saved again with the path that it came from, and no two directories would be the same.
    model.register_to_config(_name_or_path="")
    return model.eval().requires_grad_(False)
