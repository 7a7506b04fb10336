"""Studies with a known truth, and the files that simulated raters hand in."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from srpo.core.ratings.study import Gold, Item, Rules, Study
from srpo.core.ratings.table import SCHEMA, checksum


def make_study(
    mode: str = "grade", models: tuple[str, ...] = ("base", "tuned"), prompts: int = 8, gold: int = 3, **given: Any
) -> Study:
    """A study whose ids say what they are: readable in a failing test."""
    items = []
    for prompt in range(prompts):
        if mode == "grade":
            sides = [(model,) for model in models]
        else:
            sides = [(one, two) for place, one in enumerate(models) for two in models[place + 1 :]]
        for side in sides:
            name = f"{prompt:02}-{'-'.join(side)}"
            items.append(
                Item(
                    id=name,
                    group=f"g{prompt:02}",
                    prompt_id=f"{prompt:016x}",
                    category=("photo", "anime")[prompt % 2],
                    noise_index=0,
                    images=tuple(f"{name}-{place}" for place in range(len(side))),
                    models=side,
                )
            )
    for number in range(gold):
        known = Gold(dimension="realism", accepted=("fail", "pass") if mode == "grade" else ("a",))
        items.append(
            Item(
                id=f"gold{number}",
                group=f"g{number:02}",
                prompt_id=f"{number:016x}",
                category="photo",
                noise_index=0,
                images=("x",) if mode == "grade" else ("x", "y"),
                models=("",) if mode == "grade" else ("", ""),
                gold=known,
            )
        )
    settings = {"repeat_share": 0.25, "per_rater": 0, "rules": Rules(), "seed": 0} | given
    return Study(study="s1", mode=mode, models=models, items=tuple(items), checkpoint="c1", **settings)


def export(study: Study, rater: str, say: Any, ms: int = 4000) -> dict[str, Any]:
    """What the page saves for ``rater``; ``say(item, dimension)`` is what they answer."""
    items = {item.id: item for item in study.items}
    answers = [
        {
            **shown._asdict(),
            "ms": ms,
            "answers": {dimension: say(items[shown.item], dimension) for dimension in study.dimensions},
        }
        for shown in study.plan_of(rater)
    ]
    head = {"schema": SCHEMA, "study": study.study, "mode": study.mode, "rater": rater, "complete": True}
    return head | {"answers": answers, "checksum": checksum(study.study, rater, answers)}


def save(folder: Path, value: dict[str, Any], name: str | None = None) -> Path:
    """The file that a rater hands in."""
    path = folder / f"{name or value['rater']}.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def fair(item: Item, dimension: str) -> str:
    """Tuned is excellent in realism and better in pairs; gold is answered right."""
    if item.gold:
        return item.gold.accepted[0]
    if len(item.models) == 2:
        return "tie" if "tuned" not in item.models else "a" if item.models[0] == "tuned" else "b"
    return "excellent" if dimension == "realism" and item.models[0] == "tuned" else "good"


def crossed(raters: int, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (prompt, rater) of a study in which everybody rates everything."""
    return np.tile(np.arange(prompts), raters), np.repeat(np.arange(raters), prompts)
