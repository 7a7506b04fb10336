"""What an image-step costs: floating-point operations from the architecture, seconds from them, bytes between ranks.

Counts are of multiplications and additions of matrix products, convolutions and attention, as torch's own counter
(``torch.utils.flop_counter``) makes them; a test holds every formula here against it, number for number. They are of
FLUX's transformer, its VAE's decoder and a CLIP-like image tower, from the settings in their folders.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from srpo.train.config import Config
from srpo.train.memory import Kept, block_count

Settings = Mapping[str, Any]
PHASES = ("rollout", "forward", "decode", "reward", "backward")


@dataclasses.dataclass(frozen=True)
class Models:
    """What decides the cost: settings of the transformer, the VAE and the reward's image tower, tokens of a prompt."""

    transformer: Settings
    vae: Settings
    tower: Settings
    text_tokens: int = 512


def image_tokens(models: Models, resolution: int) -> int:
    """Tokens of a square image: 2 x 2 latents each."""
    return int((resolution // 2 ** len(models.vae["block_out_channels"])) ** 2)


def transformer_flops(settings: Settings, image: int, text: int) -> int:
    """One forward of FLUX's transformer for one sample of so many image and text tokens.

    For large widths D and S tokens it is about ``blocks (24 S D^2 + 4 S^2 D)``.
    """
    width = settings["num_attention_heads"] * settings["attention_head_dim"]
    both, double, single = image + text, settings["num_layers"], settings["num_single_layers"]
    channels = settings["in_channels"]
    block = 12 * both * width**2 + 2 * both**2 * width  # q, k, v, out and the MLP (4 x as wide); attention
    modulation = double * 12 * width**2 + single * 3 * width**2 + 2 * width**2  # scales, shifts, gates: a sample each
    embedded = (256 + width) * width * (2 if settings["guidance_embeds"] else 1)  # sigma, and guidance where there is
    embedded += (settings["pooled_projection_dim"] + width) * width
    ends = image * channels * width + text * settings["joint_attention_dim"] * width
    ends += image * width * (settings.get("out_channels") or channels)
    return int(2 * ((double + single) * block + modulation + embedded + ends))


def decoder_flops(settings: Settings, resolution: int) -> int:
    """Decoding one square image with the VAE of Stable Diffusion and FLUX."""
    widths = settings["block_out_channels"][::-1]
    side, now = resolution // 2 ** (len(widths) - 1), widths[0]

    def convolution(entering: int, leaving: int) -> int:
        return 9 * entering * leaving * side**2

    def residual(entering: int, leaving: int) -> int:
        shortcut = entering * leaving * side**2 if entering != leaving else 0
        return convolution(entering, leaving) + convolution(leaving, leaving) + shortcut

    total = convolution(settings["latent_channels"], now) + 2 * residual(now, now)
    total += 4 * side**2 * now**2 + 2 * side**4 * now  # the middle's attention, over all latents
    for level, width in enumerate(widths):
        for _ in range(settings["layers_per_block"] + 1):
            total, now = total + residual(now, width), width
        if level < len(widths) - 1:
            side *= 2
            total += convolution(width, width)
    return int(2 * (total + convolution(now, settings["out_channels"])))


def tower_flops(settings: Settings) -> int:
    """One image through a CLIP's image tower."""
    width, patch = settings["hidden_size"], settings["patch_size"]
    patches = (settings["image_size"] // patch) ** 2
    tokens = patches + 1
    layer = tokens * (4 * width**2 + 2 * width * settings["intermediate_size"]) + 2 * tokens**2 * width
    ends = patches * 3 * patch**2 * width + width * settings["projection_dim"]
    return int(2 * (settings["num_hidden_layers"] * layer + ends))


def step_flops(config: Config, models: Models, kept: Kept) -> dict[str, float]:
    """Operations of one prompt's rollout and all its gradient passes, by phase; an image-step is one injection of it.

    A backward pass costs two forwards where weights are trained, one where only gradients go through (LoRA's base, the
    decoder, the reward), and one more where activations are not ``kept``.
    """
    calls = 2 if config.true_guidance > 1 else 1
    model = calls * transformer_flops(models.transformer, image_tokens(models, config.resolution), models.text_tokens)
    decoder, tower = decoder_flops(models.vae, config.resolution), tower_flops(models.tower)
    passes = config.injections * (2 if config.branches == "both" else 1)
    again = 1 - kept.blocks / block_count(models.transformer)
    backward = ((1 if config.lora_rank else 2) + again) * model + (1 if kept.decoder else 2) * decoder + tower
    return {
        "rollout": config.rollout_steps * float(model),
        "forward": passes * float(model),
        "decode": passes * float(decoder),
        "reward": passes * float(tower),
        "backward": passes * float(backward),
    }


def step_seconds(flops: Mapping[str, float], rate: float, use: float | Mapping[str, float]) -> dict[str, float]:
    """Seconds by phase on a device whose matrix products reach ``rate`` FLOP/s, each phase a share ``use``."""
    shares = use if isinstance(use, Mapping) else dict.fromkeys(flops, use)
    return {phase: count / (rate * shares[phase]) for phase, count in flops.items()}


def traffic_bytes(config: Config, parameters: int, ranks: int, adapter: int = 0) -> dict[str, float]:
    """Bytes that each rank receives for one micro-batch: FSDP's gathers of weights and sums of gradients.

    The rollout and the first gradient pass share one gather; each further pass gathers again, since a backward pass
    drops the weights. Every backward pass reduces its gradient, in float32. What is frozen stands whole on each rank.
    """
    trained = adapter if config.lora_rank else parameters
    rows = config.injections * (2 if config.branches == "both" else 1)  # a sample's: a pass takes a micro-batch of rows
    others = (ranks - 1) / ranks
    compute = 2 if config.compute_dtype == "bfloat16" else 4
    return {"gathered": rows * trained * compute * others, "reduced": rows * trained * 4 * others}
