"""Pair the images before and after, measure the difference with intervals, judge it, check the gates, show it all."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file

from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import Context, Stage
from srpo.core.storage.files import write_json, write_text
from srpo.evaluate import comparison, gates
from srpo.evaluate.again import lineage
from srpo.evaluate.config import Config
from srpo.evaluate.frechet import Reference
from srpo.evaluate.pairs import TUNED, Pairs, pair, read_samples
from srpo.evaluate.report import markdown, render
from srpo.evaluate.verdict import Evidence, decide


@dataclass(frozen=True)
class Inputs:
    """What is compared and where it came from."""

    samples: tuple[Path, ...]  # one folder a shard: samples.parquet (schema SAMPLES) and its images
    checkpoint: Path  # checkpoint.json and history.jsonl
    models: Path  # models.json; its judge holds reference.safetensors


@dataclass(frozen=True)
class Outputs:
    """Where the results go."""

    evaluation: Path  # evaluation.json and a copy of the report
    report: Path
    metrics: Path
    summary: Path  # the table as Markdown, which the pipeline's UI shows beside the graph


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Evaluate one tuned model against its base; see the README beside this file."""
    samples = read_samples(inputs.samples)
    pairs = pair(samples)
    checkpoint = read_json(inputs.checkpoint / "checkpoint.json")
    history = read_history(inputs.checkpoint / "history.jsonl")
    models = read_json(inputs.models / "models.json")
    reference = read_reference(models.get("judge"), context.workspace, pairs)
    context.progress(1, 3, images=sum(map(len, samples.rows.values())))

    summary, smallest = comparison.summarise(pairs, reference, config)
    chances = comparison.p_values(pairs, reference, config)
    tests = comparison.effect_tests(chances, summary["delta"], config)
    searched, categories = comparison.searched_tests(chances, comparison.by_category(pairs, config), config)
    releases = {name: comparison.compare(pair(samples, name, TUNED), config) for name in samples.releases}
    names = {role: str(model["name"]) for role, model in models.items() if isinstance(model, dict) and "name" in model}
    results = gates.check(config.gates, summary, gates.reward_aliases(names), gates.JUDGED)
    evidence = Evidence(
        clear={name: bool(test["clear"]) for name, test in tests.items()},
        worse_p=comparison.watched_tests(chances),
        smallest=smallest,
        prompts=pairs.prompts,
        alpha=1 - config.confidence,
        power=config.power,
    )
    verdict = decide(summary, evidence, results)
    passed = verdict.may_pass and all(result["passed"] for result in results)
    context.progress(2, 3, passed=passed)

    evaluation = {
        "schema": "srpo.evaluation/1",
        "verdict": verdict.sentence,
        "kind": verdict.kind,
        "effect": verdict.effect,
        "passed": passed,
        "gates": results,
        "before": {name: entry["mean"] for name, entry in summary["before"].items()},
        "after": {name: entry["mean"] for name, entry in summary["after"].items()},
        "delta": summary["delta"],
        "intervals": {moment: summary[moment] for moment in ("before", "after")},
        "tests": tests,
        "searched": searched,
        "smallest": smallest,
        "categories": categories,
        "releases": releases,
        "prompts": pairs.prompts,
        "images": 2 * len(pairs.pairs),
        "noises": samples.noises,
        "confidence": config.confidence,
        "power": config.power,
        "resamples": config.resamples,
        "seed": config.seed,
    }
    write_json(outputs.evaluation / "evaluation.json", evaluation)
    write_json(outputs.metrics, flat_metrics(evaluation))
    write_text(outputs.summary, markdown(evaluation))
    made = lineage([inputs.checkpoint, inputs.models, *inputs.samples], context.workspace)
    write_text(outputs.report, render(pairs, verdict, evaluation, asdict(config), checkpoint, history, models, made))
    shutil.copyfile(outputs.report, outputs.evaluation / "report.html")
    context.progress(3, 3)


def flat_metrics(evaluation: dict[str, Any]) -> dict[str, float]:
    """The evaluation as one flat mapping of numbers."""
    flat = {name: float(evaluation[name]) for name in ("passed", "effect", "prompts", "images")}
    for name, entry in evaluation["delta"].items():
        flat[f"{name}_before"] = evaluation["before"][name]
        flat[f"{name}_after"] = evaluation["after"][name]
        flat[f"{name}_delta"] = entry["mean"]
        flat[f"{name}_delta_low"], flat[f"{name}_delta_high"] = entry["low"], entry["high"]
        flat[f"{name}_smallest"] = evaluation["smallest"][name]
    return flat


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises :class:`InputError` when there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}: it must be a JSON object")
    return value


def read_history(path: Path) -> list[dict[str, Any]]:
    """One mapping a training step, by step; a missing file is an empty history."""
    if not path.is_file():
        return []
    history = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            entry = json.loads(line)
            history.append(entry | {"step": float(entry["step"])})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}:{number} is {line[:80]!r}: it must be a JSON object with a step: {error}"
            ) from None
    return sorted(history, key=lambda entry: entry["step"])


def read_reference(judge: dict[str, Any] | None, workspace: Path, pairs: Pairs) -> Reference | None:
    """The statistics of the judge's features on true realistic renders, or None where the models have no judge."""
    if not judge:
        return None
    path = workspace / str(judge.get("path")) / "reference.safetensors"
    try:
        tensors = load_file(path)
        mean = tensors["mean"]
        cov = tensors["cov"] if "cov" in tensors else tensors["covariance"]
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read as the judge's mean and covariance (cov): {error!r}") from None
    if pairs.features is None:
        raise InputError("samples have no features, but the models have a judge: each image must have its features")
    width = pairs.features[0].shape[1]
    if mean.shape != (width,) or cov.shape != (width, width):
        raise InputError(
            f"{path} has shapes {mean.shape} and {cov.shape}: they must be ({width},) and ({width}, {width})"
        )
    return Reference(mean, cov)


STAGE = Stage(name="evaluate", config=Config, inputs=Inputs, outputs=Outputs, run=run)
