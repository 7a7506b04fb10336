"""Qwen-Image behind the adapter: prompts of any length under a mask, a video VAE on one frame, true guidance.

Its own schedule shifts by the image's size, ``exp(mu)`` (2.0 at 1024 x 1024 with the released settings), and is
stretched to start the last step at 0.02.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import AutoencoderKLQwenImage, QwenImageResidualBlock
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformer2DModel
from torch import Tensor

from srpo.core.backbones.backbone import Backbone
from srpo.core.backbones.conditioning import Conditioning
from srpo.core.contracts.errors import require


class QwenImage(Backbone):
    """A Qwen-Image transformer and VAE.

    Guidance above 1 is true guidance, as in the pipeline: a second model call for the negative prompt, and the result
    brought back to the norm of the first, token by token. At 1 or below there is one call, without guidance.
    """

    transformer_class = QwenImageTransformer2DModel
    vae_class = AutoencoderKLQwenImage
    residual_block = QwenImageResidualBlock
    pooled_is_mask = True

    @classmethod
    def empty_transformer(cls, folder: Path) -> Any:
        """As of every backbone; its rotary tables are no buffers, so they have to be made off the meta device."""
        model = super().empty_transformer(folder)
        tables = model.pos_embed
        model.pos_embed = type(tables)(tables.theta, tables.axes_dim, tables.scale_rope)
        return model

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
            InputError: guidance above 1 without embeddings of the negative prompt, or ``true_guidance`` beside it.
        """
        require(true_guidance <= 1, "true_guidance", true_guidance, "1 for Qwen-Image: its `guidance` is true")
        wanted = self._conditional(x, sigma, condition, height, width)
        if guidance <= 1:
            return wanted
        other = self._conditional(x, sigma, condition.away(guidance, len(x)), height, width)
        guided = other + guidance * (wanted - other)
        return guided * (wanted.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True))

    def _conditional(self, x: Tensor, sigma: Tensor, condition: Conditioning, height: int, width: int) -> Tensor:
        rows, columns = height // (2 * self.vae_scale), width // (2 * self.vae_scale)
        # Stored states are padded to one length: the model gets what it gets in the pipeline, without common padding.
        mask = condition.pooled > 0.5
        mask = mask[:, : int(mask.sum(1).max())]
        states = condition.prompt_embeds[:, : mask.shape[1]]
        return self.transformer(
            hidden_states=x.to(self.compute_dtype),
            timestep=sigma.to(device=x.device, dtype=torch.float32),
            encoder_hidden_states=states,
            encoder_hidden_states_mask=None if bool(mask.all()) else mask,
            img_shapes=[[(1, rows, columns)]] * len(x),
            return_dict=False,
        )[0].float()

    def _encode(self, pixels: Tensor) -> Tensor:
        latents: Tensor = self.vae.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0].float()
        mean, deviation = self._statistics(latents)
        return (latents - mean) / deviation

    def _decode(self, latents: Tensor) -> Tensor:
        mean, deviation = self._statistics(latents)
        frame = (latents * deviation + mean).to(self.compute_dtype)[:, :, None]
        # The VAE's own decode clamps to [-1, 1], which would kill the gradient of saturated pixels. A single frame
        # needs none of its caches.
        pixels: Tensor = self.vae.decoder(self.vae.post_quant_conv(frame))[:, :, 0]
        return pixels

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, deviation = (like.new_tensor(v)[:, None, None] for v in (config.latents_mean, config.latents_std))
        return mean, deviation
