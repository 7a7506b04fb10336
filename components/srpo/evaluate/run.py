"""Pair the images before and after, measure the difference with intervals, judge it, check the gates, show it all."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import Context, Stage, read_manifest
from srpo.core.storage.files import write_json, write_text
from srpo.evaluate import gates, statistics
from srpo.evaluate.config import Config
from srpo.evaluate.frechet import Reference
from srpo.evaluate.pairs import Pairs, read_pairs
from srpo.evaluate.report import Origin, markdown, render
from srpo.evaluate.verdict import TRAINED, decide

TESTED = (TRAINED, "p_realistic")  # the family of tests that `effect` corrects over


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
    pairs = read_pairs(inputs.samples)
    checkpoint = read_json(inputs.checkpoint / "checkpoint.json")
    history = read_history(inputs.checkpoint / "history.jsonl")
    models = read_json(inputs.models / "models.json")
    reference = read_reference(models.get("judge"), context.workspace, pairs)
    context.progress(1, 3, images=2 * len(pairs.pairs))

    summary = summarise(pairs, reference, config)
    tests = test_deltas(pairs, summary["delta"], config)
    results = gates.check(config.gates, summary)
    verdict = decide(summary, {name: bool(test["clear"]) for name, test in tests.items()}, results)
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
        "prompts": pairs.prompts,
        "images": 2 * len(pairs.pairs),
        "confidence": config.confidence,
        "resamples": config.resamples,
        "seed": config.seed,
    }
    write_json(outputs.evaluation / "evaluation.json", evaluation)
    write_json(outputs.metrics, flat_metrics(evaluation))
    write_text(outputs.summary, markdown(evaluation))
    origins = [origin("checkpoint", inputs.checkpoint), origin("models", inputs.models)]
    origins += sorted((origin("samples", folder) for folder in inputs.samples), key=lambda item: item.key)
    page = render(pairs, summary, verdict, evaluation, asdict(config), checkpoint, history, models, origins)
    write_text(outputs.report, page)
    shutil.copyfile(outputs.report, outputs.evaluation / "report.html")
    context.progress(3, 3)


def summarise(pairs: Pairs, reference: Reference | None, config: Config) -> dict[str, dict[str, dict[str, float]]]:
    """``[before, after or delta][name][mean, low or high]`` for every score, and ``frechet`` where a judge exists."""
    weights = statistics.draw_weights(pairs.prompts, config.resamples, config.seed)
    columns = {"before": pairs.before, "after": pairs.after, "delta": pairs.after - pairs.before}
    summary = {}
    for moment, values in columns.items():
        found = statistics.bootstrap_mean(values, pairs.cluster, weights, config.confidence)
        summary[moment] = _by_name(pairs.names, found)
    if reference is not None and pairs.features is not None:
        before, after = pairs.features

        def distances(counts: statistics.Array) -> statistics.Array:
            left, right = reference.distance_of(before, counts), reference.distance_of(after, counts)
            return np.array([left, right, right - left])

        draws = weights[: config.frechet_resamples]
        found = statistics.bootstrap_statistic(distances, pairs.cluster, draws, config.confidence)
        for moment, entry in _by_name(list(columns), found).items():
            low = entry["low"] if moment == "delta" else max(0.0, entry["low"])  # a distance is at least 0
            summary[moment]["frechet"] = entry | {"low": low}
    return summary


def test_deltas(pairs: Pairs, delta: dict[str, dict[str, float]], config: Config) -> dict[str, dict[str, float | bool]]:
    """Whether the trained reward and the judged realism moved: p, Holm-adjusted p, and ``clear`` of zero.

    ``clear`` needs both the corrected test and an interval without zero.
    """
    p_values = statistics.sign_flip_p(pairs.after - pairs.before, pairs.cluster, config.resamples, config.seed)
    family = {name: float(p_values[pairs.names.index(name)]) for name in TESTED if name in pairs.names}
    adjusted = statistics.holm(family)
    return {
        name: {
            "p": family[name],
            "p_holm": adjusted[name],
            "clear": adjusted[name] < 1 - config.confidence and not delta[name]["low"] <= 0 <= delta[name]["high"],
        }
        for name in family
    }


def flat_metrics(evaluation: dict[str, Any]) -> dict[str, float]:
    """The evaluation as one flat mapping of numbers."""
    flat = {name: float(evaluation[name]) for name in ("passed", "effect", "prompts", "images")}
    for name, entry in evaluation["delta"].items():
        flat[f"{name}_before"] = evaluation["before"][name]
        flat[f"{name}_after"] = evaluation["after"][name]
        flat[f"{name}_delta"] = entry["mean"]
        flat[f"{name}_delta_low"], flat[f"{name}_delta_high"] = entry["low"], entry["high"]
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


def origin(role: str, folder: Path) -> Origin:
    """Which stage made an input, under which key, with which settings and libraries."""
    try:
        manifest = read_manifest(folder)
    except InputError:  # a folder that a person put together: shown as such
        return Origin(role, "", "", {}, {})
    return Origin(role, manifest["stage"], manifest["key"], manifest["config"], manifest.get("versions", {}))


def _by_name(names: list[str], found: statistics.Interval) -> dict[str, dict[str, float]]:
    return {
        name: {"mean": float(found.mean[k]), "low": float(found.low[k]), "high": float(found.high[k])}
        for k, name in enumerate(names)
    }


STAGE = Stage(name="evaluate", config=Config, inputs=Inputs, outputs=Outputs, run=run)
