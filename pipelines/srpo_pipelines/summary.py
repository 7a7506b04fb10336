"""What a run found out: `summary.json`, and the table that ends `srpo run`."""

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from srpo.configure.parameters import Parameters
from srpo.core.execution.code import versions

RATING, RATING_KEY = "rating", "rating-key"  # below the output: what raters get, and what they must not
MEASURES = {  # name: what it means, as the table says it
    "srp": "relative reward (trained on)",
    "held_out": "held-out reward",
    "p_realistic": "P(realistic), judge",
    "content": "content kept, judge",
    "frechet": "Frechet distance to real",
}


def summarise(records: list[dict[str, Any]], parameters: Parameters, report: Path) -> tuple[dict[str, Any], Any]:
    """``summary.json`` from the stages' records, and the evaluation it was made from; what is missing is null."""
    results = {record["stage"]: Path(record["result"]) for record in records}
    evaluation = _read(results.get("evaluate"), "evaluation/evaluation.json")
    trained = _read(results.get("train"), "checkpoint/checkpoint.json")
    release = _read(results.get("export"), "release/release.json")
    stages = list(dict.fromkeys(record["stage"] for record in records))
    uri = release.get("uri")
    summary = {
        "before": {name: (evaluation.get("before") or {}).get(name) for name in MEASURES},
        "after": {name: (evaluation.get("after") or {}).get(name) for name in MEASURES},
        "delta": {name: _interval((evaluation.get("delta") or {}).get(name)) for name in MEASURES},
        "verdict": evaluation.get("verdict"),
        "checkpoint": {name: trained.get(name) for name in ("step", "steps", "collapsed")},
        "candidate": bool(release.get("candidate")),
        "seeds": {"seed": parameters.seed},
        # Seconds of work; shards are added up, so more than have passed on the clock when they ran side by side.
        "seconds": {
            stage: round(sum(record["seconds"] for record in records if record["stage"] == stage), 2)
            for stage in stages
        },
        "reused": [
            stage for stage in stages if all(record["reused"] for record in records if record["stage"] == stage)
        ],
        "release": uri.removeprefix("file://") if isinstance(uri, str) else None,
        "report": str(report) if report.is_file() else None,
        "rating_page": str(page) if (page := report.parent / RATING / "index.html").is_file() else None,
        "versions": {"python": platform.python_version()} | versions() | _version("kfp") | _version("srpo"),
    }
    return summary, evaluation


def lines(summary: dict[str, Any], evaluation: dict[str, Any]) -> list[str]:
    """The end of `srpo run`: the table with 95 % intervals, the verdict, the gates, and where things are."""
    width = max(map(len, MEASURES.values()))
    shown = ["", f"{'held-out prompts, same noise':{width}}  {'before':>9}  {'after':>9}  change [95 % interval]"]
    for name, title in MEASURES.items():
        delta = summary["delta"][name]
        change = f"{delta['mean']:+.4f} [{delta['low']:+.4f}, {delta['high']:+.4f}]" if _whole(delta) else "-"
        before, after = _number(summary["before"][name]), _number(summary["after"][name])
        shown.append(f"{title:{width}}  {before:>9}  {after:>9}  {change}")
    shown += ["", f"verdict: {summary['verdict'] or '-'}"]
    shown += chosen(summary["checkpoint"])
    for gate in evaluation.get("gates") or []:
        mark = "passed" if gate.get("passed") else "FAILED"
        shown.append(f"  {mark}  {gate.get('condition')} ({found(gate.get('value'))})")
    shown.append(f"release: {summary['release'] or '-'} ({'candidate' if summary['candidate'] else 'no candidate'})")
    shown.append(f"report:  {summary['report'] or '-'}")
    if summary["rating_page"]:
        shown.append(f"rating:  {summary['rating_page']} (for people; its key is in {RATING_KEY}/)")
    return shown


def found(value: Any) -> str:
    """What a gate met. Without a judge that knows the model and its prompts, what it would say is not measured."""
    return "not measured in this run" if value is None else f"found {_number(value)}"


def chosen(checkpoint: dict[str, Any]) -> list[str]:
    """Which step the guard let ship; a line that explains a run without an effect."""
    if checkpoint["step"] is None:
        return []
    line = f"checkpoint: step {checkpoint['step']} of {checkpoint['steps']}"
    if checkpoint["collapsed"]:
        line += "; the guard saw a collapse and stopped the run"
    elif not checkpoint["step"]:
        line += "; no trained step passed the guard with more style, so the untouched base ships"
    return [line]


def _read(result: Path | None, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((result / name).read_text(encoding="utf-8"))) if result else {}
    except (OSError, ValueError, TypeError):
        return {}


def _interval(value: Any) -> dict[str, Any]:
    value = value if isinstance(value, dict) else {}
    return {key: value.get(key) for key in ("mean", "low", "high")}


def _whole(delta: dict[str, Any]) -> bool:
    return all(isinstance(delta[key], (int, float)) for key in ("mean", "low", "high"))


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "-" if value is None else str(value)


def _version(name: str) -> dict[str, str]:
    try:
        return {name: metadata.version(name)}
    except metadata.PackageNotFoundError:
        return {}
