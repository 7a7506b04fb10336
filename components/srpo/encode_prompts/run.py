"""Encode prompts with the base model's text encoders, once: training and sampling then load no text encoder."""

import dataclasses
import shutil
from pathlib import Path

import torch

from srpo.core.backbones.load import negative_prompt
from srpo.core.backbones.pipelines import text_shapes, text_tokens
from srpo.core.contracts.errors import InputError
from srpo.core.contracts.order import prompt_order
from srpo.core.contracts.prompts import Prompt, of_split, read_prompts
from srpo.core.contracts.tensors import NEGATIVE, EmbeddingsInfo
from srpo.core.execution.stage import Context, Stage
from srpo.core.reports.page import page, table
from srpo.core.storage.files import link_tree, readable_size
from srpo.core.storage.models import read_models, required
from srpo.encode_prompts.config import Config
from srpo.encode_prompts.parts import Job, encode


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Models of the run and the prompt table."""

    models: Path
    prompts: Path


@dataclasses.dataclass(frozen=True)
class Outputs:
    """``embeddings``: a folder with embeddings.parquet, itself a folder of parts."""

    embeddings: Path
    report: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Encode the prompts that the training will draw and all that are judged; what is done stays done after a kill."""
    base = required(read_models(inputs.models, context.workspace), "base")
    shapes = text_shapes(base.folder, text_tokens(base.folder, config.max_sequence_length))
    info = EmbeddingsInfo(config.dtype, *shapes, encoder=base.digest)
    texts = texts_met(config, read_prompts(inputs.prompts), negative_prompt(base.folder))
    job = Job(base.folder, info, texts, context.state / "parts")
    check_space(job)
    encode(job, config.processes or max(1, torch.cuda.device_count()), context.progress)
    for part in range(job.parts):
        link_tree(job.path(part), outputs.embeddings / "embeddings.parquet" / job.path(part).name)
    outputs.report.write_text(report(base.name, info, len(texts) - 1), encoding="utf-8")


def texts_met(config: Config, prompts: list[Prompt], negative: str) -> list[tuple[str, str]]:
    """``(prompt id, text)`` in the order of the file: the negative prompt, what is trained on, what is judged.

    Training prompts stand in the order in which they are drawn, so that a step's prompts lie in neighbouring row
    groups; the judged ones in the order of their ids, in which they are sampled.
    """
    train = of_split(prompts, "train")
    drawn = dict.fromkeys(prompt_order(config.train_prompts, len(train), config.seed))
    met = [*(train[place] for place in drawn), *(prompt for prompt in prompts if prompt.split != "train")]
    return [(NEGATIVE, negative), *((prompt.prompt_id, prompt.prompt) for prompt in met)]


def check_space(job: Job) -> None:
    """Refuse what the volume cannot hold, before an encoder is loaded."""
    job.folder.mkdir(parents=True, exist_ok=True)
    need = sum(len(job.rows(part)) for part in job.missing()) * job.info.row_bytes
    free = shutil.disk_usage(job.folder).free
    if need > free:
        raise InputError(
            f"the workspace has {readable_size(free)} free: the embeddings of {len(job.texts)} prompts need "
            f"{readable_size(need)}; use a larger volume, or fewer steps or held-out prompts"
        )


def report(model: str, info: EmbeddingsInfo, prompts: int) -> str:
    """A small page: which encoder, how many prompts, what shape."""
    states = " x ".join(map(str, info.prompt_embeds_shape))
    rows = [("text encoders of", model), ("dtype", info.dtype), ("states", states), ("pooled", info.pooled_shape[0])]
    return page(f"{prompts} prompts encoded", table(("what", "value"), rows))


def finished_parts(state: Path) -> int:
    """How many parts there are."""
    return len(list((state / "parts").glob("part-*")))


STAGE = Stage(name="encode_prompts", config=Config, inputs=Inputs, outputs=Outputs, run=run, place=finished_parts)
