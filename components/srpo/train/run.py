"""Train: check everything, start the ranks, and turn what they leave into an artifact that the next stages read."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.prompts import of_split, read_prompts
from srpo.core.contracts.tensors import EmbeddingsReader, read_text_features
from srpo.core.execution.stage import Context, Stage
from srpo.core.reports.page import curves, page, paragraph, table
from srpo.core.storage.files import list_files, write_json, write_text
from srpo.core.storage.models import ModelEntry, read_models, required
from srpo.train.config import Config

CURVES = ("loss", "reward_denoise", "reward_inversion", "grad_norm")
GUARD_CURVES = ("held_out", "held_out_srp", "saturation", "contrast", "sharpness", "diversity")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the earlier stages made."""

    models: Path
    prompts: Path
    embeddings: Path
    text_features: Path


@dataclasses.dataclass(frozen=True)
class Outputs:
    """``checkpoint``: checkpoint.json (which names the weights in the workspace) and history.jsonl, a line a step."""

    checkpoint: Path
    report: Path
    metrics: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Preflight, launch, collect. A run that was interrupted goes on from its newest complete checkpoint."""
    models = read_models(inputs.models, context.workspace)
    base = required(models, "base")
    preflight(config, inputs, base)
    job = {
        "config": dataclasses.asdict(config),
        "base": base.path,
        "base_digest": base.digest,
        "reward": required(models, "reward").path,
        "held_out": required(models, "held_out").path,
        "prompts": str(inputs.prompts),
        "embeddings": str(inputs.embeddings),
        "text_features": str(inputs.text_features),
        "state": str(context.state),
    }
    write_json(context.state / "job.json", job)
    launch(config, context.state)

    result = json.loads((context.state / "result.json").read_text(encoding="utf-8"))
    records, step = result["records"], result["best_step"]
    weights = context.state / f"weights-{step:06d}"
    checkpoint = {
        "schema": "srpo.checkpoint/1",
        "kind": "full",
        "step": step,
        "steps": config.steps,
        "weights": weights.relative_to(context.workspace).as_posix(),
        "files": list_files(weights),
        "base": base.digest,
        "config": dataclasses.asdict(config),
    }
    write_json(outputs.checkpoint / "checkpoint.json", checkpoint)
    write_text(outputs.checkpoint / "history.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    write_json(outputs.metrics, metrics(records, step))
    write_text(outputs.report, report(config, records, step))


def preflight(config: Config, inputs: Inputs, base: ModelEntry) -> None:
    """Find what would fail later, before any weight is loaded.

    Raises:
        InputError: an image size the model cannot take, embeddings of another encoder or without a prompt that will be
            drawn, text features without control words.
    """
    # Image sizes and prompts are checked against the small files that describe the model; no weight is read.
    vae = json.loads((base.folder / "vae" / "config.json").read_text(encoding="utf-8"))
    unit = 2 ** len(vae["block_out_channels"])
    if config.resolution % unit:
        raise InputError(f"train.resolution is {config.resolution}: it must be a multiple of {unit} for this model")
    reader = EmbeddingsReader(inputs.embeddings / "embeddings.parquet")
    if reader.info.encoder != base.digest:
        raise InputError(f"{inputs.embeddings} was not made by the encoders of {base.name!r}: run encode_prompts again")
    prompts = of_split(read_prompts(inputs.prompts), "train")
    missing = [prompt.prompt_id for prompt in prompts if prompt.prompt_id not in reader]
    if len(missing) > max(0, len(prompts) - config.steps * config.batch_size):
        raise InputError(f"the embeddings lack {len(missing)} training prompts, such as {missing[0]!r}")
    features = read_text_features(inputs.text_features / "text_features.parquet", "reward")
    if config.reward_form != "plain" and not (features.positive_words and features.negative_words):
        raise InputError("the reward has no control words: name positive_words and negative_words for cache_rewards")


def launch(config: Config, state: Path) -> None:
    """Start the ranks with torchrun and wait; raises RuntimeError with the rank's own error when one failed."""
    error = state / "error.txt"
    error.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(config.processes)]
    with subprocess.Popen([*command, "-m", "srpo.train.worker", "--job", str(state / "job.json")]) as process:
        try:
            code = process.wait()
        except BaseException:  # Ctrl-C, SIGTERM as an exception: the ranks must not outlive us
            process.terminate()
            process.wait()
            raise
    if code:
        message = error.read_text(encoding="utf-8") if error.is_file() else f"a rank ended with exit code {code}"
        raise RuntimeError(message)


def metrics(records: Sequence[dict[str, Any]], step: int) -> dict[str, float]:
    """What the pipeline's UI lists for this run."""
    last = records[-1]
    return {"best_step": step, "steps": last["step"], **{name: last[name] for name in CURVES if name in last}}


def report(config: Config, records: Sequence[dict[str, Any]], step: int) -> str:
    """Training curves and guard readings as a page."""

    def points(name: str) -> list[tuple[float, float]]:
        return [(record["step"], record[name]) for record in records if name in record]

    settings = [(name, value) for name, value in dataclasses.asdict(config).items()]
    return page(
        "Training",
        paragraph(f"{config.steps} steps; the weights of step {step} are the output, chosen by the held-out reward."),
        curves({name: points(name) for name in (*CURVES, *GUARD_CURVES)}),
        table(("setting", "value"), settings),
    )


def intact(result: Path, workspace: Path) -> bool:
    """Whether the weights that the result names still stand in the workspace, by size."""
    checkpoint = json.loads((result / "checkpoint" / "checkpoint.json").read_text(encoding="utf-8"))
    places = [(workspace / checkpoint["weights"] / file["path"], file["size"]) for file in checkpoint["files"]]
    return all(path.is_file() and path.stat().st_size == size for path, size in places)


STAGE = Stage(name="train", config=Config, inputs=Inputs, outputs=Outputs, run=run, intact=intact)
