"""What training and sampling ask of a diffusion model, and what its kinds have in common.

Latents are packed as the transformers see them: ``[B, (H/2s)(W/2s), 4C]`` for an image of H x W pixels and a VAE that
shrinks by s to C channels. Packing is a permutation, so the objective works on them as on any latent. Parts are loaded
one by one: training loads no text encoder, text encoding loads no transformer.
"""

import functools
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from srpo.core.backbones.conditioning import Conditioning
from srpo.core.backbones.pipelines import check_folder, vae_scale
from srpo.core.backbones.schedule import load_scheduler, own_sigmas
from srpo.core.contracts.errors import require
from srpo.core.objective.schedule import sampler_sigmas


class Backbone(ABC):
    """A transformer and a VAE, ready for rollouts, velocities with gradient, and decoding.

    The VAE is frozen. ``compute_dtype`` is what transformer and VAE compute in; latents stay float32 outside.
    """

    transformer_class: ClassVar[Any]
    vae_class: ClassVar[Any]
    residual_block: ClassVar[Any]  # what the VAE's decoder is made of
    pooled_is_mask: ClassVar[bool] = False  # what goes beside the text's states: a mask of them, or a feature

    def __init__(
        self, transformer: Any, vae: Any, compute_dtype: torch.dtype = torch.float32, scheduler: Any = None
    ) -> None:
        self.transformer = transformer
        self.vae = vae.requires_grad_(False).eval()
        self.compute_dtype = compute_dtype
        self.scheduler = scheduler
        self.vae_scale = vae_scale(vae.config)
        self.latent_channels: int = transformer.config.in_channels // 4

    @classmethod
    def load(cls, folder: Path, device: torch.device, compute_dtype: torch.dtype, weights: Path | None = None) -> Self:
        """Load transformer and VAE; ``weights`` names another folder for the transformer (a tuned one).

        The transformer's parameters are float32 when it is to be trained by its caller; here they have
        ``compute_dtype``.
        """
        check_folder(folder)
        source = weights if weights is not None else folder / "transformer"
        transformer = cls.load_transformer(source, compute_dtype)
        vae = cls.load_vae(folder, device, compute_dtype)
        return cls(transformer.to(device).eval(), vae, compute_dtype, load_scheduler(folder))

    @classmethod
    def load_transformer(cls, folder: Path, dtype: torch.dtype) -> Any:
        """The transformer of ``folder`` as diffusers reads it, on the CPU: mapped where it is stored in ``dtype``."""
        return cls.transformer_class.from_pretrained(folder, torch_dtype=dtype)

    @classmethod
    def load_vae(cls, folder: Path, device: torch.device, compute_dtype: torch.dtype) -> Any:
        """The VAE of a pipeline folder."""
        return cls.vae_class.from_pretrained(folder / "vae", torch_dtype=compute_dtype).to(device)

    @classmethod
    def empty_transformer(cls, folder: Path) -> Any:
        """The transformer that the folder ``folder`` describes, its parameters on the meta device: without memory."""
        with torch.device("meta"):
            return cls.transformer_class.from_config(cls.transformer_class.load_config(folder))

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

    def sigmas(self, steps: int, shift: float | None, height: int, width: int) -> Tensor:
        """Sigmas of the Euler sampler, float64 ``[steps + 1]``, from 1 down to 0.

        Args:
            steps: number of model calls.
            shift: a static shift; None for the schedule that the model comes with, which may depend on the size.
            height, width: of the image.
        """
        if shift is not None:
            return sampler_sigmas(steps, shift)
        return own_sigmas(self.scheduler, steps, self.latent_shape(height, width)[0])

    @abstractmethod
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
        """``v(x, sigma, prompt)`` in float32.

        Args:
            x: packed latents ``[B, N, C]``.
            sigma: ``[B]`` in [0, 1], passed on exactly (no rounding to whole timesteps).
            condition: for the same B prompts.
            guidance: embedded or true guidance, as the model has it.
            true_guidance: of a model whose guidance is embedded: above 1, a second call leads away from the negative
                prompt.
        """

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Packed clean latents ``[B, N, C]`` float32 of ``pixels [B, 3, H, W]`` in [0, 1] (the posterior's mode)."""
        return self.pack(self._encode((pixels * 2 - 1).to(self.compute_dtype)))

    def decode(self, x0: Tensor, height: int, width: int) -> Tensor:
        """Pixels ``[B, 3, height, width]`` float32, about [0, 1] but not clamped: a clamp would kill the gradient.

        No tiling: its seams would be rewarded.
        """
        return self._decode(self.unpack(x0, height, width)).float() / 2 + 0.5

    def recompute_decoder(self) -> None:
        """From now on, compute the decoder's activations again in the backward pass, one residual block at a time.

        As one piece it would hold all of them at once when its turn comes, for the same work.
        """
        for module in self.vae.decoder.modules():
            if isinstance(module, self.residual_block):
                module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)

    @abstractmethod
    def _encode(self, pixels: Tensor) -> Tensor:
        """Float32 latents ``[B, C, h, w]``, as the transformer wants them, of ``pixels`` in [-1, 1]."""

    @abstractmethod
    def _decode(self, latents: Tensor) -> Tensor:
        """Pixels, about [-1, 1] and not clamped, of what :meth:`_encode` makes."""
