"""FLUX.1 behind the adapter: latents in, velocity and pixels out; text to embeddings.

Latents are packed as the transformer sees them: ``[B, (H/2s)(W/2s), 64]`` for an image of H x W pixels and a VAE that
shrinks by s. Packing is a permutation, so the objective works on them as on any latent. Parts are loaded one by one:
training loads no text encoder, text encoding loads no transformer.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from srpo.core.contracts.errors import InputError, require

PARTS = ("transformer", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")


@dataclasses.dataclass(frozen=True)
class Conditioning:
    """What the transformer gets besides latents: T5 states ``[B, L, D]`` and the pooled CLIP feature ``[B, P]``."""

    prompt_embeds: Tensor
    pooled: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Conditioning":
        """The same on another device and dtype."""
        return Conditioning(self.prompt_embeds.to(device, dtype), self.pooled.to(device, dtype))

    def __getitem__(self, rows: slice) -> "Conditioning":
        return Conditioning(self.prompt_embeds[rows], self.pooled[rows])


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not a whole FLUX pipeline.

    Raises:
        InputError: the folder or one of its parts is missing.
    """
    if not folder.is_dir():
        raise InputError(f"model folder {str(folder)!r} does not exist: it must be a diffusers pipeline folder")
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise InputError(
            f"model folder {str(folder)!r} has no {missing[0]!r}: it must hold model_index.json and {', '.join(PARTS)}"
        )
    try:
        name = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError):
        raise InputError(f"model folder {str(folder)!r} has no readable model_index.json") from None
    require(name == "FluxPipeline", f"pipeline class in {str(folder)!r}", name, "'FluxPipeline'")


class Flux:
    """A FLUX transformer and VAE, ready for rollouts, velocities with gradient, and decoding.

    The VAE is frozen. ``compute_dtype`` is what transformer and VAE compute in; latents stay float32 outside.
    """

    def __init__(self, transformer: Any, vae: Any, compute_dtype: torch.dtype = torch.float32) -> None:
        self.transformer = transformer
        self.vae = vae.requires_grad_(False).eval()
        self.compute_dtype = compute_dtype
        self.vae_scale = 2 ** (len(vae.config.block_out_channels) - 1)

    @classmethod
    def load(
        cls, folder: Path, device: torch.device, compute_dtype: torch.dtype, weights: Path | None = None
    ) -> "Flux":
        """Load transformer and VAE; ``weights`` names another folder for the transformer (a tuned one).

        The transformer's parameters are float32 when it is to be trained by its caller; here they have
        ``compute_dtype``.
        """
        check_folder(folder)
        source = weights if weights is not None else folder / "transformer"
        transformer = FluxTransformer2DModel.from_pretrained(source, torch_dtype=compute_dtype)
        vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=compute_dtype)
        return cls(transformer.to(device).eval(), vae.to(device), compute_dtype)

    def latent_shape(self, height: int, width: int) -> tuple[int, int]:
        """``(tokens, channels)`` of one packed latent.

        Raises:
            InputError: a size that is not a multiple of twice the VAE's scale (diffusers would cut it silently).
        """
        unit = 2 * self.vae_scale
        for name, size in (("height", height), ("width", width)):
            require(size > 0 and size % unit == 0, name, size, f"a multiple of {unit}, as this model's latents need")
        return (height // unit) * (width // unit), self.transformer.config.in_channels

    def pack(self, latents: Tensor) -> Tensor:
        """``[B, C, h, w] -> [B, (h/2)(w/2), 4C]``: 2 x 2 patches become tokens."""
        batch, channels, height, width = latents.shape
        patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(batch, (height // 2) * (width // 2), channels * 4)

    def unpack(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """The inverse of :meth:`pack`, for an image of ``height`` x ``width`` pixels."""
        rows, columns = height // (2 * self.vae_scale), width // (2 * self.vae_scale)
        batch, _, channels = tokens.shape
        patches = tokens.reshape(batch, rows, columns, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(batch, channels // 4, rows * 2, columns * 2)

    def velocity(
        self, x: Tensor, sigma: Tensor, condition: Conditioning, guidance: float, height: int, width: int
    ) -> Tensor:
        """``v(x, sigma, prompt)`` in float32.

        Args:
            x: packed latents ``[B, N, C]``.
            sigma: ``[B]`` in [0, 1], passed on exactly (no rounding to whole timesteps).
            condition: for the same B prompts.
            guidance: embedded guidance, ignored by models without it.
        """
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

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Packed clean latents ``[B, N, C]`` float32 of ``pixels [B, 3, H, W]`` in [0, 1] (the posterior's mode)."""
        scaled = (pixels * 2 - 1).to(self.compute_dtype)
        latents = self.vae.encode(scaled).latent_dist.mode().float()
        return self.pack((latents - self.vae.config.shift_factor) * self.vae.config.scaling_factor)

    def decode(self, x0: Tensor, height: int, width: int, checkpointed: bool = False) -> Tensor:
        """Pixels ``[B, 3, height, width]`` float32, about [0, 1] but not clamped: a clamp would kill the gradient.

        With ``checkpointed`` the decoder's activations are computed again in the backward pass. No tiling: its seams
        would be rewarded.
        """
        latents = self.unpack(x0, height, width) / self.vae.config.scaling_factor + self.vae.config.shift_factor
        latents = latents.to(self.compute_dtype)

        def run(z: Tensor) -> Tensor:
            return self.vae.decode(z, return_dict=False)[0]

        pixels = checkpoint(run, latents, use_reentrant=False) if checkpointed else run(latents)
        return pixels.float() / 2 + 0.5


def _image_ids(rows: int, columns: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    ids = torch.zeros(rows, columns, 3, device=device, dtype=dtype)
    ids[..., 1] = torch.arange(rows, device=device)[:, None]
    ids[..., 2] = torch.arange(columns, device=device)[None, :]
    return ids.reshape(rows * columns, 3)
