"""The page that shows whether training helped: verdict, numbers, images, distributions, drift, how to run it again."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import numpy as np
from markupsafe import Markup

from srpo.evaluate import again, charts
from srpo.evaluate.again import Made
from srpo.evaluate.pairs import Pairs
from srpo.evaluate.pictures import even, extremes, picture
from srpo.evaluate.verdict import JUDGE, LOWER_IS_BETTER, TRAINED, Verdict, effects, label, show, watched

HERE = Path(__file__).parent
NEUTRAL = ("saturation", "contrast", "sharpness", "diversity")  # drift monitors: neither side is better
ORDER = (TRAINED, "held_out", *JUDGE, "reward_score", "held_out_srp", *NEUTRAL)
DISTRIBUTIONS = 12  # measures whose spread is shown, the most important first
GUARD = ("held_out", "held_out_srp", *NEUTRAL)  # read at checkpoints
STEPS = ("loss", "reward_denoise", "reward_inversion", "grad_norm")  # read at every step, the first of the others
OF_THE_MACHINE = ("seconds", "images_per_second", "memory")
BADGES = {
    "improved": ("good", "improved"),
    "cost": ("good", "improved at a cost"),
    "unconfirmed": ("plain", "not confirmed"),
    "hacked": ("bad", "reward hacking likely"),
    "mixed": ("bad", "mixed"),
    "worse": ("bad", "worse"),
    "none": ("plain", "no effect"),
    "undecided": ("plain", "too few prompts"),
}


class Row(NamedTuple):
    """A line of the table of numbers; texts, ready to be shown."""

    name: str
    label: str
    judge: bool
    before: tuple[str, str]  # mean and interval
    after: tuple[str, str]
    delta: tuple[str, str]
    drawing: Markup
    smallest: str
    chance: str  # corrected p-value, or ""
    clear: bool


def render(
    pairs: Pairs,
    verdict: Verdict,
    evaluation: Mapping[str, Any],
    config: Mapping[str, Any],
    checkpoint: Mapping[str, Any],
    history: list[dict[str, Any]],
    models: Mapping[str, Any],
    made: Sequence[Made],
) -> str:
    """One self-contained HTML page. Prompts and all names are escaped, never trusted.

    Raises:
        InputError: an image that is to be shown cannot be read.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"show": show, "label": label}
    delta = pairs.after - pairs.before
    names = sorted(evaluation["delta"], key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    measured = [name for name in names if name in pairs.names]
    style, script = (Markup((HERE / name).read_text(encoding="utf-8")) for name in ("report.css", "report.js"))
    step = number(checkpoint.get("step"))
    tone, badge = BADGES[verdict.kind]
    overrides = json.dumps(again.overrides(made, dict(config)), indent=1)
    return environment.from_string((HERE / "report.html.j2").read_text(encoding="utf-8")).render(
        style=style,
        script=script,
        policy=policy(style, script),
        verdict=verdict,
        tone=tone,
        badge=badge,
        evaluation=evaluation,
        percent=f"{100 * config['confidence']:g} %",
        power=f"{100 * config['power']:g} %",
        rows=[_row(name, evaluation) for name in names],
        has_judge=any(name in names for name in JUDGE),
        watched=[name for name in watched(names) if name in measured],
        categories=category_rows(evaluation["categories"], [name for name in watched(names) if name in measured]),
        releases=[(release, release_rows(entry, measured)) for release, entry in evaluation["releases"].items()],
        groups=[
            (group, [picture(pairs, index, delta, config["zoom"]) for index in group.chosen])
            for group in extremes(pairs, delta, config["extreme_pairs"])
        ],
        grid=[
            picture(pairs, index, delta, config["thumbnail"]) for index in even(len(pairs.pairs), config["grid_pairs"])
        ],
        pairs=len(pairs.pairs),
        distributions=[
            (
                label(name),
                charts.overlay(pairs.before[:, k], pairs.after[:, k], label(name)),
                charts.histogram(delta[:, k], label(name), better(name)),
            )
            for name in measured[:DISTRIBUTIONS]
            for k in [pairs.names.index(name)]
        ],
        drift=drift(history, step, checkpoint.get("config") or {}),
        curves=curves(history, step),
        step=checkpoint.get("step"),
        checkpoint=_settings(checkpoint),
        models=[(role, model) for role, model in sorted(models.items()) if isinstance(model, dict)],
        made=[(item, _settings(item.config)) for item in made],
        own=_settings(config),
        versions=sorted({pair for item in made for pair in item.versions.items()}),
        command=again.command(made),
        overrides=overrides,
        overrides_link="data:application/json;charset=utf-8," + quote(overrides),
        file=again.FILE,
        whole=set(again.ORDER) <= {item.stage for item in made},
    )


def policy(style: str, script: str) -> str:
    """A content security policy that lets the page run its own script and style, show its own images, and no more."""

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return f"default-src 'none'; img-src data:; style-src {source(style)}; script-src {source(script)}"


def better(name: str) -> int:
    """1 where more is better, -1 where less is, 0 where neither is known to be."""
    return 0 if name in NEUTRAL else -1 if name in LOWER_IS_BETTER else 1


def category_rows(
    categories: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> list[tuple[str, Mapping[str, Any], list[tuple[str, str, Markup, bool]]]]:
    """Of each category its name, its entry, and a cell a measure: difference, interval, drawing, clear of zero.

    A measure's drawings have one scale, so that categories can be compared.
    """
    scales = {
        name: max(
            (max(abs(entry["delta"][name]["low"]), abs(entry["delta"][name]["high"])) for entry in categories.values()),
            default=0.0,
        )
        for name in names
    }

    def cell(entry: Mapping[str, Any], name: str) -> tuple[str, str, Markup, bool]:
        delta = entry["delta"][name]
        return *_difference(delta), _drawing(delta, name, scales[name]), entry["clear"][name]

    return [(category, entry, [cell(entry, name) for name in names]) for category, entry in categories.items()]


def release_rows(entry: Mapping[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The table of an earlier release against the tuned model."""
    return [
        {
            "label": label(name),
            "before": show(entry["before"][name]),
            "after": show(entry["after"][name]),
            "delta": _difference(entry["delta"][name]),
            "drawing": _drawing(entry["delta"][name], name),
            "chance": chance(entry["q"][name]),
            "clear": entry["clear"][name],
        }
        for name in names
    ]


def drift(history: Sequence[Mapping[str, Any]], step: float | None, training: Mapping[str, Any]) -> list[Any]:
    """``(title, drawing)`` of what the guard read at checkpoints, with what it allows shaded."""
    drawings = []
    for name in GUARD:
        points = _points(history, name)
        if len(points) < 2:
            continue
        base, allowed = points[0][1], None
        tolerance, factor = number(training.get("guard_tolerance")), number(training.get("guard_drift"))
        if name == "held_out" and tolerance is not None:
            allowed = (base - tolerance, np.inf)
        if name in NEUTRAL and factor:
            allowed = (base / factor, base * factor)
        drawings.append((label(name), charts.curve(points, label(name), step, allowed)))
    return drawings


def curves(history: Sequence[Mapping[str, Any]], step: float | None) -> list[tuple[str, Markup]]:
    """A drawing for each number of the training's steps, the known ones first."""
    # What depends on the clock or the machine stands in the training's own report: the same run gives the same page,
    # and the same release.
    names = {
        name
        for entry in history
        for name in entry
        if name not in ("step", *GUARD) and not name.startswith(OF_THE_MACHINE)
    }
    ordered = sorted(names, key=lambda name: (STEPS.index(name) if name in STEPS else len(STEPS), name))
    series = [(name, _points(history, name)) for name in ordered]
    return [(name.replace("_", " "), charts.curve(points, name, step)) for name, points in series if points]


def number(value: Any) -> float | None:
    """``value`` as a finite number, or None."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
    return float(value) if good else None


def chance(p: float) -> str:
    """A p-value as people read it."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def markdown(evaluation: Mapping[str, Any]) -> str:
    """The verdict, the table and the gates as Markdown; nothing in it comes from a prompt."""
    lines = [f"**{evaluation['verdict']}**", "", "| measure | before | after | difference |", "|---|---|---|---|"]
    for name, delta in evaluation["delta"].items():
        before, after = evaluation["before"][name], evaluation["after"][name]
        change = f"{delta['mean']:+.4g} [{delta['low']:+.4g}, {delta['high']:+.4g}]"
        lines.append(f"| `{name}` | {before:.4g} | {after:.4g} | {change} |")
    lines += ["", f"{evaluation['prompts']} prompts, {evaluation['images']} images.", ""]
    for gate in evaluation["gates"]:
        unknown = " (not measured)" if gate["value"] is None else ""
        lines.append(f"- {'holds' if gate['passed'] else 'FAILS'}: `{gate['condition']}`{unknown}")
    return "\n".join(lines) + "\n"


def _points(history: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(entry["step"], value) for entry in history if (value := number(entry.get(name))) is not None]


def _row(name: str, evaluation: Mapping[str, Any]) -> Row:
    before, after = (evaluation["intervals"][moment][name] for moment in ("before", "after"))
    delta = evaluation["delta"][name]
    aimed = name in effects(evaluation["delta"])
    test = evaluation["tests"][name] if aimed else evaluation["searched"][name]
    return Row(
        name,
        label(name),
        name in JUDGE,
        (show(before["mean"]), f"[{show(before['low'])}, {show(before['high'])}]"),
        (show(after["mean"]), f"[{show(after['low'])}, {show(after['high'])}]"),
        _difference(delta),
        _drawing(delta, name),
        "±" + show(evaluation["smallest"][name]) if evaluation["smallest"][name] else "",
        chance(test["p_holm"] if aimed else test["q"]),
        bool(test["clear"]),
    )


def _difference(delta: Mapping[str, float]) -> tuple[str, str]:
    return show(delta["mean"], True), f"[{show(delta['low'], True)}, {show(delta['high'], True)}]"


def _drawing(delta: Mapping[str, float], name: str, scale: float = 0.0) -> Markup:
    return charts.interval(delta["mean"], delta["low"], delta["high"], better(name), scale)


def _settings(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items()]
