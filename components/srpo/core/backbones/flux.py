"""FLUX.1 behind the adapter: guidance is embedded, one pooled CLIP feature goes beside the T5 states."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor

from srpo.core.backbones.backbone import Backbone
from srpo.core.backbones.conditioning import Conditioning


class Flux(Backbone):
    """A FLUX transformer and VAE.

    Guidance is an input of the transformer, ignored by models without it (schnell). True guidance is a second model
    call for the negative prompt, as in the pipeline.
    """

    transformer_class = FluxTransformer2DModel
    vae_class = AutoencoderKL
    residual_block = ResnetBlock2D

    def velocity(
        self,
        x: Tensor,
        sigma: Tensor,
        condition: Conditioning,
        guidance: float,
        height: int,
        width: int,
        true_guidance: float = 1.0,
    ) -> Tensor:
        """``v(x, sigma, prompt)`` in float32 (see :meth:`Backbone.velocity`).

        Raises:
            InputError: true guidance above 1 without embeddings of the negative prompt.
        """
        wanted = self._conditional(x, sigma, condition, guidance, height, width)
        if true_guidance <= 1:
            return wanted
        other = self._conditional(x, sigma, condition.away(true_guidance, len(x)), guidance, height, width)
        return other + true_guidance * (wanted - other)

    def _conditional(
        self, x: Tensor, sigma: Tensor, condition: Conditioning, guidance: float, height: int, width: int
    ) -> Tensor:
        device, dtype = x.device, self.compute_dtype
        rows, columns = height // (2 * self.vae_scale), width // (2 * self.vae_scale)
        embedded = None
        if self.transformer.config.guidance_embeds:
            embedded = torch.full((len(x),), guidance, device=device, dtype=torch.float32)
        return self.transformer(
            hidden_states=x.to(dtype),
            timestep=sigma.to(device=device, dtype=torch.float32),
            guidance=embedded,
            encoder_hidden_states=condition.prompt_embeds,
            pooled_projections=condition.pooled,
            img_ids=_image_ids(rows, columns, device, dtype),
            txt_ids=torch.zeros(condition.prompt_embeds.shape[1], 3, device=device, dtype=dtype),
            return_dict=False,
        )[0].float()

    def _encode(self, pixels: Tensor) -> Tensor:
        latents: Tensor = self.vae.encode(pixels).latent_dist.mode().float()
        return (latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor

    def _decode(self, latents: Tensor) -> Tensor:
        latents = latents / self.vae.config.scaling_factor + self.vae.config.shift_factor
        pixels: Tensor = self.vae.decode(latents.to(self.compute_dtype), return_dict=False)[0]
        return pixels


def _image_ids(rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    ids = torch.zeros(rows, columns, 3, device=device, dtype=dtype)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)[None, :]
    return ids.reshape(rows * columns, 3)
