"""Encode prompts with the base model's text encoders, once: training and sampling then load no text encoder."""

import dataclasses
from pathlib import Path

import torch

from srpo.core.backbones.conditioning import DTYPES
from srpo.core.backbones.load import load_text_encoder
from srpo.core.contracts.order import prompt_order
from srpo.core.contracts.prompts import of_split, prompts_met, read_prompts
from srpo.core.contracts.tensors import NEGATIVE, ROWS_PER_GROUP, EmbeddingsInfo, EmbeddingsWriter
from srpo.core.execution.device import find_device
from srpo.core.execution.quiet import quiet
from srpo.core.execution.stage import Context, Stage
from srpo.core.reports.page import page, table
from srpo.core.storage.models import read_models, required
from srpo.encode_prompts.config import Config


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Models of the run and the prompt table."""

    models: Path
    prompts: Path


@dataclasses.dataclass(frozen=True)
class Outputs:
    """``embeddings``: a folder with embeddings.parquet."""

    embeddings: Path
    report: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Encode the prompts that the training will draw and all that are judged, in order of their ids."""
    quiet()
    base = required(read_models(inputs.models, context.workspace), "base")
    table = read_prompts(inputs.prompts)
    prompts = prompts_met(table, prompt_order(config.train_prompts, len(of_split(table, "train")), config.seed))
    encoder = load_text_encoder(base.folder, find_device("auto"), DTYPES[config.dtype])
    first = encoder([prompts[0].prompt])
    info = EmbeddingsInfo(
        dtype=config.dtype,
        prompt_embeds_shape=tuple(first.prompt_embeds.shape[1:]),
        pooled_shape=tuple(first.pooled.shape[1:]),
        encoder=base.digest,
    )
    with EmbeddingsWriter(outputs.embeddings / "embeddings.parquet", info) as writer:
        if encoder.negative_prompt is not None:
            negative = encoder([encoder.negative_prompt])
            writer.write([NEGATIVE], [raw_bytes(negative.prompt_embeds[0])], [raw_bytes(negative.pooled[0])])
        # Whole row groups at a time, so that the file does not depend on the batch size.
        for start in range(0, len(prompts), ROWS_PER_GROUP):
            group = prompts[start : start + ROWS_PER_GROUP]
            condition = encoder([prompt.prompt for prompt in group])
            writer.write(
                [prompt.prompt_id for prompt in group],
                [raw_bytes(row) for row in condition.prompt_embeds],
                [raw_bytes(row) for row in condition.pooled],
            )
            context.progress(start + len(group), len(prompts))
    outputs.report.write_text(report(base.name, info, len(prompts)), encoding="utf-8")


def raw_bytes(tensor: torch.Tensor) -> bytes:
    """The tensor's own bytes; numpy knows no bfloat16."""
    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def report(model: str, info: EmbeddingsInfo, prompts: int) -> str:
    """A small page: which encoder, how many prompts, what shape."""
    states = " x ".join(map(str, info.prompt_embeds_shape))
    rows = [("text encoders of", model), ("dtype", info.dtype), ("states", states), ("pooled", info.pooled_shape[0])]
    return page(f"{prompts} prompts encoded", table(("what", "value"), rows))


STAGE = Stage(name="encode_prompts", config=Config, inputs=Inputs, outputs=Outputs, run=run)
