"""The page that shows whether training helped: verdict, numbers, images, distributions, training, what ran."""

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from srpo.core.contracts.errors import InputError
from srpo.evaluate import charts
from srpo.evaluate.pairs import Pair, Pairs
from srpo.evaluate.verdict import JUDGE, LOWER_IS_BETTER, TRAINED, Summary, Verdict, label, show

TEMPLATE = Path(__file__).with_name("report.html.j2")
SMALL = 64  # images up to this many pixels are embedded as they are and enlarged by the browser
NEUTRAL = ("saturation", "contrast", "sharpness")  # drift monitors: neither side is better
ORDER = (TRAINED, "held_out", *JUDGE, "reward_score", "held_out_srp", *NEUTRAL)
DISTRIBUTIONS = (TRAINED, "held_out", "p_realistic", "content", "saturation", "contrast", "sharpness")
CAPTION = (TRAINED, "held_out", "p_realistic")
BADGES = {
    "improved": ("good", "improved"),
    "cost": ("good", "improved at a cost"),
    "unconfirmed": ("plain", "not confirmed"),
    "hacked": ("bad", "reward hacking likely"),
    "mixed": ("bad", "mixed"),
    "worse": ("bad", "worse"),
    "none": ("plain", "no effect"),
}


class Origin(NamedTuple):
    """Where an input came from; empty texts and mappings when it has no manifest."""

    role: str
    stage: str
    key: str
    config: dict[str, Any]
    versions: dict[str, str]


class Row(NamedTuple):
    """A line of the table of numbers."""

    name: str
    label: str
    judge: bool
    before: tuple[str, str]  # mean and interval
    after: tuple[str, str]
    delta: tuple[str, str]
    drawing: Markup


class Shown(NamedTuple):
    """A pair of images with its caption."""

    pair: Pair
    before: str  # data: URIs
    after: str
    small: bool
    changes: list[tuple[str, str]]


def render(
    pairs: Pairs,
    summary: Summary,
    verdict: Verdict,
    evaluation: Mapping[str, Any],
    config: Mapping[str, Any],
    checkpoint: Mapping[str, Any],
    history: list[dict[str, Any]],
    models: Mapping[str, Any],
    origins: list[Origin],
) -> str:
    """One self-contained HTML page. Prompts and all names are escaped, never trusted.

    Raises:
        InputError: an image that is to be shown cannot be read.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["show"] = show
    delta = pairs.after - pairs.before
    names = sorted(summary["delta"], key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    groups = [
        (title, note, [_shown(pairs, index, delta, config["thumbnail"]) for index in chosen])
        for title, note, chosen in extremes(pairs, delta, config["extreme_pairs"])
    ]
    grid = [_shown(pairs, index, delta, config["thumbnail"]) for index in even(len(pairs.pairs), config["grid_pairs"])]
    tone, badge = BADGES[verdict.kind]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        verdict=verdict,
        tone=tone,
        badge=badge,
        evaluation=evaluation,
        percent=f"{100 * config['confidence']:g} %",
        rows=[_row(name, summary) for name in names],
        has_judge=any(name in summary["delta"] for name in JUDGE),
        groups=groups,
        grid=grid,
        pairs=len(pairs.pairs),
        histograms=[
            (label(name), charts.histogram(delta[:, pairs.names.index(name)], label(name), better(name)))
            for name in DISTRIBUTIONS
            if name in pairs.names
        ],
        curves=curves(history, number(checkpoint.get("step"))),
        step=checkpoint.get("step"),
        config=_settings(config),
        checkpoint=_settings(checkpoint),
        models=[(role, model) for role, model in sorted(models.items()) if isinstance(model, dict)],
        origins=[(item, _settings(item.config)) for item in origins],
        versions=sorted({pair for item in origins for pair in item.versions.items()}),
    )


def better(name: str) -> int:
    """1 where more is better, -1 where less is, 0 where neither is known to be."""
    return 0 if name in NEUTRAL else -1 if name in LOWER_IS_BETTER else 1


def extremes(pairs: Pairs, delta: NDArray[np.float64], count: int) -> list[tuple[str, str, list[int]]]:
    """Title, note and pairs of each group: most changed, largest gains and losses; every order is stable."""
    spread = pairs.before.std(0)
    change = (np.abs(delta) / np.where(spread > 0, spread, 1)).sum(1)
    groups = [("Most changed", "over all scores, in spreads of the base model", np.argsort(-change, kind="stable"))]
    for name, title in ((TRAINED, "trained reward"), ("held_out", "held-out reward")):
        if name in pairs.names:
            values = delta[:, pairs.names.index(name)]
            groups.append((f"Best: {title}", "largest gains", np.argsort(-values, kind="stable")))
            groups.append((f"Worst: {title}", "largest losses or smallest gains", np.argsort(values, kind="stable")))
    return [(title, note, [int(index) for index in order[:count]]) for title, note, order in groups if count]


def even(total: int, count: int) -> list[int]:
    """At most ``count`` of ``total`` positions, evenly spread, chosen without a look at the scores."""
    count = min(total, count)
    return [(index * total) // count for index in range(count)]


OF_THE_MACHINE = ("seconds", "images_per_second", "memory")


def curves(history: list[dict[str, Any]], step: float | None) -> list[tuple[str, Markup]]:
    """A drawing for each number of the history, the known ones first."""
    first = ("loss", "reward_denoise", "reward_inversion", TRAINED, "held_out", *NEUTRAL, "grad_norm")
    # What depends on the clock or the machine stands in the training's own report: the same run gives the same page,
    # and the same release.
    names = {name for entry in history for name in entry if name != "step" and not name.startswith(OF_THE_MACHINE)}
    drawings = []
    for name in sorted(names, key=lambda name: (first.index(name) if name in first else len(first), name)):
        points = [(entry["step"], value) for entry in history if (value := number(entry.get(name))) is not None]
        if points:
            drawings.append((name.replace("_", " "), charts.curve(points, name, step)))
    return drawings


def number(value: Any) -> float | None:
    """``value`` as a finite number, or None."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and bool(np.isfinite(value))
    return float(value) if good else None


def thumbnail(path: Path, longest: int) -> tuple[str, bool]:
    """An image as a data: URI, and whether it is small (kept as it is)."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"image {path} cannot be read: {error}") from None
    small = max(image.size) <= SMALL
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        image.save(buffer, "WEBP", quality=78)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", small


def _shown(pairs: Pairs, index: int, delta: NDArray[np.float64], longest: int) -> Shown:
    pair = pairs.pairs[index]
    (before, small), (after, _) = thumbnail(pair.before, longest), thumbnail(pair.after, longest)
    columns = [(name, pairs.names.index(name)) for name in CAPTION if name in pairs.names]
    return Shown(pair, before, after, small, [(name, show(delta[index, k], sign=True)) for name, k in columns])


def _row(name: str, summary: Summary) -> Row:
    before, after, delta = (summary[moment][name] for moment in ("before", "after", "delta"))
    return Row(
        name,
        label(name),
        name in JUDGE,
        (show(before["mean"]), f"[{show(before['low'])}, {show(before['high'])}]"),
        (show(after["mean"]), f"[{show(after['low'])}, {show(after['high'])}]"),
        (show(delta["mean"], True), f"[{show(delta['low'], True)}, {show(delta['high'], True)}]"),
        charts.interval(delta["mean"], delta["low"], delta["high"], better(name)),
    )


def _settings(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in values.items()]


def markdown(evaluation: dict[str, Any]) -> str:
    """The verdict, the table and the gates as Markdown; nothing in it comes from a prompt."""
    lines = [f"**{evaluation['verdict']}**", "", "| measure | before | after | difference |", "|---|---|---|---|"]
    for name, delta in evaluation["delta"].items():
        before, after = evaluation["before"][name], evaluation["after"][name]
        change = f"{delta['mean']:+.4g} [{delta['low']:+.4g}, {delta['high']:+.4g}]"
        lines.append(f"| `{name}` | {before:.4g} | {after:.4g} | {change} |")
    lines += ["", f"{evaluation['prompts']} prompts, {evaluation['images']} images.", ""]
    lines += [f"- {'holds' if gate['passed'] else 'FAILS'}: `{gate['condition']}`" for gate in evaluation["gates"]]
    return "\n".join(lines) + "\n"
