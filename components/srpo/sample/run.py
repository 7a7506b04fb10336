"""Sample every model on the same prompts and noise, and score each image where it was made.

The images of a run are cut into fixed blocks; a shard computes every n-th block. A block is always computed as one
batch, so the image of a prompt and noise is the same, bit for bit, for any number of shards. Memory holds one model and
one block, however many images there are.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from srpo.core.backbones.backbone import Backbone
from srpo.core.backbones.conditioning import DTYPES, read_conditioning
from srpo.core.backbones.load import backbone_of
from srpo.core.backbones.pipelines import check_guidance, latent_unit
from srpo.core.contracts.errors import InputError, require
from srpo.core.contracts.prompts import Prompt, read_prompts
from srpo.core.contracts.tensors import EmbeddingsReader
from srpo.core.execution.code import versions
from srpo.core.execution.device import find_device
from srpo.core.execution.quiet import quiet
from srpo.core.execution.stage import Context, Stage
from srpo.core.objective import draws
from srpo.core.objective.direct_align import euler_rollout
from srpo.core.storage.files import write_text
from srpo.core.storage.models import ModelEntry, read_models, required
from srpo.sample.blocks import block_folder, collect, finished_blocks, is_finished, save_block
from srpo.sample.config import Config
from srpo.sample.contenders import Contender, contenders, fingerprint
from srpo.sample.plan import Block, Item, blocks_of, judged_prompts, of_shard, write_plan
from srpo.sample.scorers import Scorers
from srpo.sample.sheet import contact_sheet

RECIPE = ("seed", "steps", "guidance", "true_guidance", "schedule", "shift", "resolution", "compute_dtype")
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


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
    """``samples``: plan.json, samples.parquet (a row an image, with its scores), and images/, which no pod copies."""

    samples: Path
    report: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Model by model, sample the blocks of this shard that an earlier try has not finished; then put all together."""
    quiet()
    device = find_device(config.device)
    models = read_models(inputs.models, context.workspace)
    base = required(models, "base")
    checkpoint = json.loads((inputs.checkpoint / "checkpoint.json").read_text(encoding="utf-8"))
    config = with_resolution(config, checkpoint, base)
    check_guidance(base.folder, config.true_guidance)
    prompts = read_prompts(inputs.prompts)
    judged = judged_prompts(config, prompts)
    reader = open_embeddings(inputs.embeddings, base, judged)
    rivals = contenders(config, base, checkpoint, context.workspace)
    blocks = blocks_of(config, prompts)
    own = of_shard(config, blocks)

    waiting = {
        rival.name: [block for block in own if not is_finished(block_folder(context.state, rival.name, block.number))]
        for rival in rivals
    }
    total, done = len(rivals) * len(own), len(rivals) * len(own) - sum(map(len, waiting.values()))
    if done:
        context.progress(done, total, model="finished before", shard=config.shard)
    scorers = Scorers.load(models, inputs.text_features, device, judged) if done < total else None
    for rival in rivals:
        if not waiting[rival.name] or scorers is None:
            continue
        # Nothing else may hold the model before: two of them do not fit one GPU.
        backbone = backbone_of(base.folder).load(base.folder, device, DTYPES[config.compute_dtype], rival.weights)
        for block, following in zip_longest(waiting[rival.name], waiting[rival.name][1:]):
            images = to_images(sample_block(config, backbone, reader, block, following))
            scores, features = scorers(from_images(images, device), block.prompts)
            rows = rows_of(block, rival.name, scores, features)
            recipes = [recipe(config, block, place, rival, base.digest, device) for place in range(len(block.items))]
            save_block(block_folder(context.state, rival.name, block.number), images, rows, recipes)
            done += 1
            context.progress(done, total, model=rival.name, shard=config.shard)
        del backbone

    folders = (block_folder(context.state, rival.name, block.number) for rival in rivals for block in own)
    collect(folders, outputs.samples)
    write_plan(
        outputs.samples / "plan.json", config, blocks, {rival.name: rival.files or base.digest for rival in rivals}
    )
    write_text(outputs.report, contact_sheet(config, [rival.name for rival in rivals], outputs.samples))


def with_resolution(config: Config, checkpoint: dict[str, Any], base: ModelEntry) -> Config:
    """``config`` with the resolution of the training where it has none; raises InputError for one the model refuses."""
    resolution = config.resolution or checkpoint.get("config", {}).get("resolution")
    unit = latent_unit(base.folder)
    usable = isinstance(resolution, int) and resolution % unit == 0
    require(usable, "sample.resolution", resolution, f"a multiple of {unit}, as this model's latents need")
    return dataclasses.replace(config, resolution=resolution)


def open_embeddings(folder: Path, base: ModelEntry, judged: Sequence[Prompt]) -> EmbeddingsReader:
    """The embeddings of every judged prompt; raises InputError when one is missing or they are another model's."""
    reader = EmbeddingsReader(folder / "embeddings.parquet")
    if reader.info.encoder != base.digest:
        raise InputError(f"{folder} was not made by the encoders of {base.name!r}: run encode_prompts again")
    for prompt in judged:
        if prompt.prompt_id not in reader:
            raise InputError(
                f"{folder} lacks the prompt {prompt.prompt_id!r}, which is judged: run encode_prompts again"
            )
    return reader


def sample_block(
    config: Config, backbone: Backbone, reader: EmbeddingsReader, block: Block, following: Block | None = None
) -> Tensor:
    """Pixels ``[B, 3, H, W]`` of a block, about [0, 1], from the noise of (seed, prompt, noise index).

    The embeddings of the block ``following`` are read meanwhile.
    """
    size, device = config.resolution or 0, next(backbone.transformer.parameters()).device
    backbone.latent_shape(size, size)
    shape = (1, backbone.latent_channels, size // backbone.vae_scale, size // backbone.vae_scale)
    ids = [prompt.prompt_id for prompt in block.prompts]
    noises = [draws.noise(shape, config.seed, *noise_of(item)) for item in block.items]
    condition = read_conditioning(reader, ids).to(device, backbone.compute_dtype)
    if following:
        reader.prefetch([prompt.prompt_id for prompt in following.prompts])
    with torch.no_grad():
        x0 = euler_rollout(
            lambda x, sigma: backbone.velocity(x, sigma, condition, config.guidance, size, size, config.true_guidance),
            backbone.pack(torch.cat(noises)).to(device),
            backbone.sigmas(config.steps, config.static_shift, size, size),
        )
        return backbone.decode(x0, size, size)


def noise_of(item: Item) -> tuple[str, str, int]:
    """Purpose and parts of an image's noise: the same for every model."""
    return "sample", item.prompt.prompt_id, item.noise_index


def to_images(pixels: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """``[B, H, W, 3]`` uint8 of pixels in about [0, 1]."""
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def from_images(images: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """``[B, 3, H, W]`` in [0, 1]: what is scored is what was saved."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float() / 255


def rows_of(
    block: Block, model: str, scores: dict[str, Tensor], features: np.ndarray[Any, Any] | None
) -> list[dict[str, Any]]:
    """The rows of a block's images (schema SAMPLES)."""
    return [
        {
            **{key: getattr(item.prompt, key) for key in ("prompt_id", "prompt", "category", "split")},
            "model": model,
            "noise_index": item.noise_index,
            "image": image_name(item, model),
            "scores": [(key, float(value[place])) for key, value in scores.items()],
            "features": None if features is None else features[place].tolist(),
        }
        for place, item in enumerate(block.items)
    ]


def image_name(item: Item, model: str) -> str:
    """The image's path in the artifact. Ids come from prompt files: one that is no plain file name is hashed."""
    name = item.prompt.prompt_id
    if not FILE_NAME.fullmatch(name):
        name = hashlib.sha256(name.encode()).hexdigest()[:32]
    return f"images/{name}-{item.noise_index}-{model}.png"


def recipe(
    config: Config, block: Block, place: int, rival: Contender, base: str, device: torch.device
) -> dict[str, Any]:
    """Everything needed to make an image again: what was asked for, from which weights, in which batch, by what."""
    item = block.items[place]
    return {
        "prompt": item.prompt.prompt,
        "prompt_id": item.prompt.prompt_id,
        "noise_index": item.noise_index,
        "noise_seed": draws.generator(config.seed, *noise_of(item)).initial_seed(),  # of torch.randn on the CPU
        "model": rival.name,
        "base": base,
        "weights": rival.files,
        # The size of the batch can change the last bits; what else is in it cannot.
        "batch": {"block": block.number, "size": len(block.items), "place": place},
        **{name: getattr(config, name) for name in RECIPE},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "versions": versions(),
    }


STAGE = Stage(
    name="sample",
    config=Config,
    inputs=Inputs,
    outputs=Outputs,
    run=run,
    fingerprint=fingerprint,
    place=finished_blocks,
    stays=("images",),
)
