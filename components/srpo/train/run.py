"""Train: check everything, start the ranks, and turn what they leave into an artifact that the next stages read."""

import dataclasses
import functools
import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srpo.core.contracts.config import from_mapping
from srpo.core.contracts.errors import InputError
from srpo.core.execution.again import Tries, killed_by
from srpo.core.execution.stage import Context, Stage, of_the_key
from srpo.core.reports.page import curves, page, paragraph, table
from srpo.core.storage.files import list_files, write_json, write_text
from srpo.core.storage.known_hashes import KnownHashes
from srpo.core.storage.models import ModelEntry, read_models, required, reward_roles
from srpo.train.config import Config
from srpo.train.launcher import (
    ERROR,
    HEARTBEAT,
    RESULT,
    SHUTDOWN,
    TERMINATED,
    RanksError,
    RanksKilled,
    ranks_command,
)
from srpo.train.nodes import on_the_volume, train_on_nodes
from srpo.train.preflight import Inputs, preflight

CURVES = ("loss", "reward_denoise", "reward_inversion", "grad_norm")
SPEED_CURVES = ("seconds", "images_per_second", "memory_gib")
GUARD_CURVES = ("held_out", "held_out_srp", "saturation", "contrast", "sharpness", "diversity")


@dataclasses.dataclass(frozen=True)
class Outputs:
    """``checkpoint``: checkpoint.json (which names the weights in the workspace) and history.jsonl, a line a step."""

    checkpoint: Path
    report: Path
    metrics: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Preflight, launch, collect. A run that was interrupted goes on from its newest complete checkpoint."""
    models = read_models(inputs.models, context.workspace)
    preflight(config, inputs, models, context.state)
    if config.nodes > 1:
        inputs = Inputs(inputs.models, *(on_the_volume(path, context.workspace) for path in inputs.tables()))
    job = job_of(config, inputs, models, context.state, context.workspace)
    if config.nodes > 1:
        job["heartbeat"] = str(context.state / HEARTBEAT)
    write_json(context.state / "job.json", job)
    run_ranks(config, context.state)
    collect(config, outputs, context.state, context.workspace, required(models, "base").digest)


def job_of(
    config: Config, inputs: Inputs, models: dict[str, ModelEntry | None], state: Path, workspace: Path
) -> dict[str, Any]:
    """What every rank is told (:class:`srpo.train.worker.Job`)."""
    base = required(models, "base")
    rewards = [(role, required(models, role)) for role in reward_roles(models)]
    return {
        "config": dataclasses.asdict(config),
        "base": base.path,
        "base_digest": base.digest,
        "rewards": [(role, entry.path, entry.weight) for role, entry in rewards],
        "held_out": required(models, "held_out").path,
        **{name: str(getattr(inputs, name)) for name in ("prompts", "embeddings", "text_features")},
        "state": str(state),
        "latents": str(workspace / "latents"),
    }


def collect(config: Config, outputs: Outputs, state: Path, workspace: Path, base: str) -> None:
    """Turn what the ranks left into the artifact, the metrics and the report."""
    result = json.loads((state / RESULT).read_text(encoding="utf-8"))
    records, step = result["records"], result["best_step"]
    weights = state / f"weights-{step:06d}"
    checkpoint = {
        "schema": "srpo.checkpoint/1",
        "kind": "full",
        "step": step,
        "steps": config.steps,
        "collapsed": result["collapsed"],
        "weights": weights.relative_to(workspace).as_posix(),
        "files": list_files(weights),
        "base": base,
        "config": of_the_key(config),
    }
    write_json(outputs.checkpoint / "checkpoint.json", checkpoint)
    write_text(outputs.checkpoint / "history.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    write_json(outputs.metrics, metrics(records, step))
    write_text(outputs.report, report(config, records, step, result["collapsed"]))
    for path in (*state.glob("step-*"), *state.glob("weights-*")):  # the run is over: only what ships is kept
        if path != weights:
            shutil.rmtree(path)


def run_ranks(config: Config, state: Path) -> None:
    """Run the ranks, here or on several nodes; ranks that were killed are started again from the newest checkpoint.

    Raises:
        InputError: what a rank refused, in its own words.
        RuntimeError: a rank failed otherwise, or was killed again before it got further.
        SystemExit: 143 after SIGTERM, with a checkpoint saved.
    """
    tries = Tries("train", functools.partial(newest_step, state))
    while True:
        try:
            (launch if config.nodes == 1 else train_on_nodes)(config, state)
            return
        except RanksKilled as error:
            if not tries.again(str(error)):
                raise RuntimeError(str(error)) from None
        except RanksError as error:
            raise cause(state, str(error)) from None


def newest_step(state: Path) -> str:
    """The name of the newest checkpoint, or nothing."""
    return max((path.name for path in state.glob("step-*")), default="")


def launch(config: Config, state: Path) -> None:
    """Start the ranks of this machine with torchrun and wait; SIGTERM is passed on, so that they save before they end.

    Raises:
        RanksError: one of them failed (RanksKilled: a signal ended it).
        SystemExit: 143 after SIGTERM, with a checkpoint saved.
    """
    (state / ERROR).unlink(missing_ok=True)
    with subprocess.Popen(ranks_command(config.processes, SHUTDOWN, state / "job.json")) as process:
        terminated: list[int] = []

        def pass_on(number: int, frame: object) -> None:
            terminated.append(number)
            process.terminate()

        before = signal.getsignal(signal.SIGTERM)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, pass_on)
        try:
            code = process.wait()
        except BaseException:  # Ctrl-C: the ranks must not outlive us
            process.terminate()
            process.wait()
            raise
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)
    if terminated:
        raise SystemExit(TERMINATED)
    if code < 0 or code > 128:  # torchrun itself, or the shell's way to tell of a signal
        raise RanksKilled(f"a rank was {killed_by(-code if code < 0 else code - 128)}")
    if code:
        raise RanksError(f"a rank ended with exit code {code}")


def cause(state: Path, otherwise: str) -> BaseException:
    """What ended the ranks: the words that the first of them to fail left in ``state``, or else ``otherwise``."""
    error = state / ERROR
    message = error.read_text(encoding="utf-8") if error.is_file() else otherwise
    kind, _, text = message.partition(": ")
    if kind == "Interrupted":
        return SystemExit(TERMINATED)
    return InputError(text) if kind == "InputError" else RuntimeError(message)


def workstation_job(settings: Mapping[str, Any], check: bool) -> dict[str, Any]:
    """The workstation's way in (``torchrun -m srpo.train``): the job that ``settings`` describe.

    ``settings`` has ``config``, ``workspace``, ``inputs`` and ``output``; with ``check`` (on one rank) everything is
    checked that can be checked before weights are loaded.

    Raises:
        InputError: an unknown key, a missing input, or whatever :func:`preflight` finds.
    """
    job = from_mapping(Workstation, settings, "train.yaml")
    config = from_mapping(Config, job.config, "train")
    missing = [field.name for field in dataclasses.fields(Inputs) if field.name not in job.inputs]
    if missing:
        raise InputError(f"train.yaml has no input {missing[0]!r}: it must name the artifact's folder")
    inputs = Inputs(**{field.name: Path(job.inputs[field.name]) for field in dataclasses.fields(Inputs)})
    models, state = read_models(inputs.models, Path(job.workspace)), Path(job.output) / "state"
    if check:
        preflight(config, inputs, models, state)
    return job_of(config, inputs, models, state, Path(job.workspace))


def finish(settings: Mapping[str, Any]) -> None:
    """After a workstation run: write checkpoint/, report.html and metrics.json below the output folder."""
    job = from_mapping(Workstation, settings, "train.yaml")
    output = Path(job.output)
    outputs = Outputs(output / "checkpoint", output / "report.html", output / "metrics.json")
    outputs.checkpoint.mkdir(parents=True, exist_ok=True)
    base = required(read_models(Path(job.inputs["models"]), Path(job.workspace)), "base").digest
    # The weights lie below the output folder, so that is what their path is relative to.
    collect(from_mapping(Config, job.config, "train"), outputs, output / "state", output, base)
    print(f"srpo: train: finished, see {outputs.report}", flush=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workstation:
    """The file that ``torchrun -m srpo.train --config`` reads."""

    workspace: str
    output: str
    inputs: dict[str, str]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)


def metrics(records: Sequence[dict[str, Any]], step: int) -> dict[str, float]:
    """What the pipeline's UI lists for this run."""
    last = records[-1]
    return {"best_step": step, "steps": last["step"], **{name: last[name] for name in CURVES if name in last}}


def report(config: Config, records: Sequence[dict[str, Any]], step: int, stopped: bool) -> str:
    """Training curves and guard readings as a page."""

    def points(name: str) -> list[tuple[float, float]]:
        return [(record["step"], record[name]) for record in records if name in record]

    settings = [(name, value) for name, value in dataclasses.asdict(config).items()]
    return page(
        "Training",
        paragraph(
            f"{records[-1]['step']} of {config.steps} steps; the weights of step {step} are the output, chosen by the "
            "held-out reward and image statistics." + (" The guard saw a collapse and stopped the run." * stopped)
        ),
        curves({name: points(name) for name in (*CURVES, *GUARD_CURVES, *SPEED_CURVES)}),
        table(("setting", "value"), settings),
    )


def intact(result: Path, workspace: Path, known: KnownHashes) -> str:
    """What is wrong with the weights that the result names, which stand elsewhere in the workspace."""
    checkpoint = json.loads((result / "checkpoint" / "checkpoint.json").read_text(encoding="utf-8"))
    damaged = known.damaged(workspace / checkpoint["weights"], checkpoint["files"])
    return f"{checkpoint['weights']}/{damaged[0]} is missing or not what was written" if damaged else ""


def fingerprint(config: Config) -> Any:
    """What a run reads besides its inputs: the real images of the offline variant."""
    return list_files(Path(config.offline_images)) if config.offline_images else None


STAGE = Stage(
    name="train",
    config=Config,
    inputs=Inputs,
    outputs=Outputs,
    run=run,
    fingerprint=fingerprint,
    intact=intact,
    alone=True,
)
