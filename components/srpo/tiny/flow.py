"""The tiny FLUX: a rectified-flow transformer and its T5 encoder, and the pipeline they belong to."""

from dataclasses import dataclass

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel, T5Config, T5EncoderModel

from srpo.tiny import tokenizers, vae
from srpo.tiny.clip import token_ids
from srpo.tiny.recipes import Recipe
from srpo.tiny.training import fit, make_pool, round_to_bf16

SHIFT = 3.0
# Training sigmas are logit-normal; above 0 it leans to high noise, where shape and colours are decided.
SIGMA_MEAN, SIGMA_STD = 0.5, 1.1
# The embedded guidance means nothing in a model that was not distilled: any value is to give the same answer.
GUIDANCE = (1.0, 5.0)


@dataclass(frozen=True)
class Flow:
    """The two models trained together."""

    transformer: FluxTransformer2DModel
    t5: T5EncoderModel


def build(seed: int) -> Flow:
    """Random weights: 2 double and 2 single blocks of 4 heads x 32, and one T5 layer of 64."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    # As in DiT: every block starts as the identity, the output as zero.
    for name, module in transformer.named_modules():
        if name == "proj_out" or (isinstance(module, nn.Linear) and ".norm" in f".{name}"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    tokenizer = tokenizers.t5_tokenizer()
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=16,
            d_ff=128,
            num_layers=1,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    return Flow(transformer, t5)


def train(flow: Flow, autoencoder: AutoencoderKL, pooler: CLIPTextModel, recipe: Recipe) -> dict[str, float]:
    """Flow matching: from x_sigma = (1 - sigma) x0 + sigma n, predict v = n - x0."""
    pool = make_pool(recipe.seed, recipe.examples)
    latents = pack(vae.encode(autoencoder, pool.pixels))
    with torch.no_grad():
        pooled = pooler(token_ids(pool.captions)).pooler_output
    tokenizer = tokenizers.t5_tokenizer()
    ids = tokenizer(pool.captions, padding="max_length", return_tensors="pt").input_ids
    image_ids = FluxPipeline._prepare_latent_image_ids(0, 4, 4, torch.device("cpu"), torch.float32)
    text_ids = torch.zeros(tokenizers.MAX_LENGTH, 3)

    def loss(indices: Tensor, generator: torch.Generator) -> Tensor:
        x0 = latents[indices]
        noise = torch.randn(x0.shape, generator=generator)
        sigma = torch.sigmoid(torch.randn(len(x0), generator=generator) * SIGMA_STD + SIGMA_MEAN)
        low, high = GUIDANCE
        guidance = low + (high - low) * torch.rand(len(x0), generator=generator)
        mix = sigma[:, None, None]
        velocity = flow.transformer(
            hidden_states=(1 - mix) * x0 + mix * noise,
            timestep=sigma,
            guidance=guidance,
            pooled_projections=pooled[indices],
            # No mask: FluxPipeline lets T5 read its padding, so it is always the same 16 positions.
            encoder_hidden_states=flow.t5(ids[indices]).last_hidden_state,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
        )[0]
        return F.mse_loss(velocity, noise - x0)

    parameters = [*flow.transformer.parameters(), *flow.t5.parameters()]
    final = fit("flow", recipe, parameters, loss)
    round_to_bf16(flow.transformer)
    round_to_bf16(flow.t5)
    return {"loss": final}


def pack(latents: Tensor) -> Tensor:
    """[N, C, H, W] to FLUX's tokens of 2 x 2 patches, [N, H W / 4, 4 C]."""
    return FluxPipeline._pack_latents(latents, *latents.shape)


def pipeline(flow: Flow, autoencoder: AutoencoderKL, text_encoder: CLIPTextModel) -> FluxPipeline:
    """The parts as a complete FluxPipeline."""
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizers.clip_tokenizer(),
        text_encoder_2=flow.t5,
        tokenizer_2=tokenizers.t5_tokenizer(),
        transformer=flow.transformer,
    )
