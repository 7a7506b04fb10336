"""Sample base and tuned model on the same prompts and noise, and score every image where it was made.

The images of a run are cut into fixed blocks; a shard computes every n-th block. A block is always computed as one
batch, so the image of a prompt and noise is the same, bit for bit, for any number of shards.
"""

import base64
import dataclasses
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from srpo.core.backbones.backbone import Backbone
from srpo.core.backbones.conditioning import DTYPES, read_conditioning
from srpo.core.backbones.load import backbone_of
from srpo.core.contracts.prompts import Prompt, read_prompts
from srpo.core.contracts.schemas import SAMPLES, write_table
from srpo.core.contracts.tensors import EmbeddingsReader
from srpo.core.execution.device import find_device
from srpo.core.execution.quiet import quiet
from srpo.core.execution.stage import Context, Stage
from srpo.core.objective import draws
from srpo.core.objective.direct_align import euler_rollout
from srpo.core.objective.schedule import sampler_sigmas
from srpo.core.reports.page import page, paragraph
from srpo.core.storage.files import write_text
from srpo.core.storage.models import read_models, required
from srpo.sample.config import Config
from srpo.sample.scorers import Scorers

SHEET_PROMPTS = 24


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the earlier stages made."""

    models: Path
    prompts: Path
    embeddings: Path
    text_features: Path
    checkpoint: Path


@dataclasses.dataclass(frozen=True)
class Outputs:
    """``samples``: samples.parquet (a row an image, with its scores) and images/."""

    samples: Path
    report: Path


@dataclasses.dataclass(frozen=True)
class Item:
    """One image to make: a prompt and the number of its noise."""

    prompt: Prompt
    noise_index: int


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """For the base, then the tuned model: sample this shard's blocks, write and score the images."""
    quiet()
    device, dtype = find_device(config.device), DTYPES[config.compute_dtype]
    models = read_models(inputs.models, context.workspace)
    base = required(models, "base")
    checkpoint = json.loads((inputs.checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
    reader = EmbeddingsReader(inputs.embeddings / "embeddings.parquet")
    prompts = read_prompts(inputs.prompts)
    scorers = Scorers.load(models, inputs.text_features, device, judged_prompts(config, prompts))
    blocks = shard_blocks(config, prompts)
    (outputs.samples / "images").mkdir()
    rows: list[dict[str, Any]] = []
    for name, weights in (("base", None), ("tuned", context.workspace / checkpoint["weights"])):
        backbone = backbone_of(base.folder).load(base.folder, device, dtype, weights)
        for number, block in enumerate(blocks, start=1):
            pixels = sample_block(config, backbone, reader, block)
            images = to_images(pixels)
            scores, features = scorers(from_images(images, device), [item.prompt for item in block])
            for place, item in enumerate(block):
                file = f"images/{item.prompt.prompt_id}-{item.noise_index}-{name}.png"
                save_png(images[place], outputs.samples / file, recipe(config, item, name, base.digest, checkpoint))
                rows.append(
                    {
                        **{key: getattr(item.prompt, key) for key in ("prompt_id", "prompt", "category", "split")},
                        "model": name,
                        "noise_index": item.noise_index,
                        "image": file,
                        "scores": [(key, float(value[place])) for key, value in scores.items()],
                        "features": None if features is None else features[place].tolist(),
                    }
                )
            context.progress(number, len(blocks), model=name, shard=config.shard)
    write_table(outputs.samples / "samples.parquet", pa.Table.from_pylist(rows, schema=SAMPLES), SAMPLES)
    write_text(outputs.report, contact_sheet(config, rows, outputs.samples))


def judged_prompts(config: Config, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts that are sampled, over all shards: the first ``max_prompts`` that are not trained on."""
    return [prompt for prompt in prompts if prompt.split != "train"][: config.max_prompts]


def shard_blocks(config: Config, prompts: Sequence[Prompt]) -> list[list[Item]]:
    """The blocks of this shard: every ``shards``-th block of the run's fixed list, from number ``shard`` on."""
    items = [Item(prompt, index) for prompt in judged_prompts(config, prompts) for index in range(config.noises)]
    blocks = [items[start : start + config.block_size] for start in range(0, len(items), config.block_size)]
    return blocks[config.shard :: config.shards]


def sample_block(config: Config, backbone: Backbone, reader: EmbeddingsReader, block: Sequence[Item]) -> Tensor:
    """Pixels ``[B, 3, H, W]`` of a block, about [0, 1], from the noise of (seed, prompt, noise index)."""
    size, device = config.resolution, next(backbone.transformer.parameters()).device
    backbone.latent_shape(size, size)
    shape = (1, backbone.latent_channels, size // backbone.vae_scale, size // backbone.vae_scale)
    noises = [draws.noise(shape, config.seed, "sample", item.prompt.prompt_id, item.noise_index) for item in block]
    condition = read_conditioning(reader, [item.prompt.prompt_id for item in block]).to(device, backbone.compute_dtype)
    with torch.no_grad():
        x0 = euler_rollout(
            lambda x, sigma: backbone.velocity(x, sigma, condition, config.guidance, size, size),
            backbone.pack(torch.cat(noises)).to(device),
            sampler_sigmas(config.steps, config.shift),
        )
        return backbone.decode(x0, size, size)


def to_images(pixels: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """``[B, H, W, 3]`` uint8 of pixels in about [0, 1]."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def from_images(images: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """``[B, 3, H, W]`` in [0, 1]: what is scored is what was saved."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


def recipe(config: Config, item: Item, model: str, base: str, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Everything needed to make the image again."""
    return {
        "prompt": item.prompt.prompt,
        "prompt_id": item.prompt.prompt_id,
        "noise_index": item.noise_index,
        "model": model,
        "base": base,
        "weights": checkpoint["files"] if model == "tuned" else None,
        **{
            name: getattr(config, name)
            for name in ("seed", "steps", "guidance", "shift", "resolution", "compute_dtype")
        },
    }


def save_png(image: np.ndarray[Any, Any], path: Path, facts: dict[str, Any]) -> None:
    """A lossless PNG with its recipe inside (text chunk ``srpo``)."""
    info = PngImagePlugin.PngInfo()
    info.add_text("srpo", json.dumps(facts, sort_keys=True))
    Image.fromarray(image).save(path, pnginfo=info)


def contact_sheet(config: Config, rows: Sequence[dict[str, Any]], folder: Path) -> str:
    """A page of thumbnails: base beside tuned, the first noise of the first prompts."""
    shown: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["noise_index"] == 0:
            shown.setdefault(row["prompt"], {})[row["model"]] = thumbnail(folder / row["image"])
    pairs = list(shown.items())[:SHEET_PROMPTS]
    grid = "".join(pair_figure(prompt, images) for prompt, images in pairs)
    return page(
        f"Samples, shard {config.shard + 1} of {config.shards}",
        paragraph(f"{len(rows)} images; base on the left, tuned on the right, from the same noise."),
        f'<div class="charts">{grid}</div>',
    )


def pair_figure(prompt: str, images: dict[str, str]) -> str:
    """Base and tuned image of a prompt, side by side."""
    pictures = "".join(f'<img src="{images[name]}" width="128" alt="{name}"> ' for name in ("base", "tuned"))
    return f"<figure>{pictures}<figcaption>{html.escape(prompt)}</figcaption></figure>"


def thumbnail(path: Path, size: int = 256) -> str:
    """A data URI of the image, at most ``size`` pixels wide."""
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((size, size))
        buffer = io.BytesIO()
        small.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


STAGE = Stage(name="sample", config=Config, inputs=Inputs, outputs=Outputs, run=run)
