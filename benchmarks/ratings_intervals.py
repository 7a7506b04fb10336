"""What the intervals of a rating study cover: simulated studies with known truth, balanced and not.

Grades come from a latent scale. A rater and a prompt move every grade, the tuned model's each in their own way besides.
A row is one design: how many ratings each rater gave, and how strong the effects are. A rater who gave few saw a random
part of the prompts. It says how often the 95 % interval holds the truth, and how often a study of two equal models has
its interval above zero, or below.

    python benchmarks/ratings_intervals.py --output ratings_intervals.json
"""

import argparse
import dataclasses
import json
import platform
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy
from scipy import stats

from srpo.core.ratings.intervals import Array, Labels, difference, share

CONFIDENCE = 0.95
OWN = 0.5  # effects on the tuned model alone, as a part of those on both


@dataclasses.dataclass(frozen=True)
class Row:
    """One design. ``cut`` is where Excellent begins, or how far apart a win is, in units of a grade's own noise."""

    name: str
    ratings: tuple[int, ...]  # of each rater
    prompts: int
    measure: Literal["delta", "win", "share"] = "delta"
    of_rater: float = 0.5
    of_prompt: float = 0.8
    gain: float = 0.5
    cut: float = 0.7


def rows() -> list[Row]:
    """The grid."""
    designs = [
        *((f"{raters} raters, all of {prompts}", (prompts,) * raters, prompts) for raters, prompts in BALANCED),
        ("3 raters, 100 each of 300", (100,) * 3, 300),
        ("3 raters: 100, 100, 20", (100, 100, 20), 100),
        ("3 raters: 100, 10, 10", (100, 10, 10), 100),
        ("3 raters: 64, 64, 6", (64, 64, 6), 64),
        ("5 raters: 500, four with 50", (500, *(50,) * 4), 500),
        ("10 raters: three with 500, seven with 50", (*(500,) * 3, *(50,) * 7), 500),
    ]
    grid = [
        Row(name, ratings, prompts, measure, cut=cut)
        for measure, cut in (("delta", 0.7), ("win", 0.3))
        for name, ratings, prompts in designs
    ]
    for raters in (3, 5, 10):
        every = (64,) * raters
        grid += [
            Row(f"{raters} raters, strong rater effects", every, 64, "delta", of_rater=1.5),
            Row(f"{raters} raters, strong rater effects", every, 64, "win", of_rater=1.5, cut=0.3),
            Row(f"{raters} raters, no effects of raters or prompts", every, 64, "win", 0.0, 0.0, cut=0.3),
            Row(f"{raters} raters, nearly all won", every, 64, "win", gain=3.0, cut=0.1),
            Row(f"{raters} raters, 97 % ties", every, 64, "win", gain=0.2, cut=2.9),
            Row(f"{raters} raters, 97 % ties, 16 prompts", (16,) * raters, 16, "win", gain=0.2, cut=2.9),
        ]
        for prompts in (64, 200):
            for cut in (4.8, -3.5, -4.8):
                name = f"{raters} raters, all of {prompts}, strong rater effects"
                grid.append(Row(name, (prompts,) * raters, prompts, "share", of_rater=1.5, gain=0.0, cut=cut))
    return grid


BALANCED = (
    (2, 100),
    (3, 16),
    (3, 100),
    (3, 500),
    (5, 3),
    (5, 40),
    (5, 500),
    (10, 3),
    (10, 4),
    (10, 8),
    (10, 16),
    (10, 40),
    (10, 500),
)


def labels(row: Row, generator: np.random.Generator) -> tuple[Labels, Labels]:
    """Prompt and rater of each rating."""
    seen = [generator.permutation(row.prompts)[:count] for count in row.ratings]
    return np.concatenate(seen), np.repeat(np.arange(len(seen)), row.ratings)


def simulate(
    row: Row, gain: float, studies: int, generator: np.random.Generator
) -> tuple[Labels, Labels, Array, float]:
    """Prompts, raters and values [N, studies] of ``studies`` studies, and the true mean."""
    prompt, rater = labels(row, generator)

    def effects(scale: float) -> Array:
        of_rater = generator.normal(0, scale * row.of_rater, (len(row.ratings), studies))[rater]
        return of_rater + generator.normal(0, scale * row.of_prompt, (row.prompts, studies))[prompt]

    def noise() -> Array:
        return generator.normal(0, 1, (len(prompt), studies))

    spread = row.of_rater**2 + row.of_prompt**2
    if row.measure == "win":
        lead = effects(1) + noise() + gain
        won, lost = (stats.norm.sf((row.cut - sign * gain) / np.sqrt(1 + spread)) for sign in (1, -1))
        return prompt, rater, (lead > row.cut).astype(float) - (lead < -row.cut), float(won - lost)
    common = effects(1)
    before, after = ((common + effects(OWN) + noise() + shift > row.cut).astype(float) for shift in (0.0, gain))
    excellent = [stats.norm.sf((row.cut - shift) / np.sqrt(1 + (1 + OWN**2) * spread)) for shift in (0.0, gain)]
    if row.measure == "share":
        return prompt, rater, after, float(excellent[1])
    return prompt, rater, after - before, float(excellent[1] - excellent[0])


def measure(row: Row, studies: int, seed: int = 0) -> dict[str, Any]:
    """What the intervals of ``row`` cover, how wide they are, and how often a null study has one clear of zero."""
    generator = np.random.default_rng(seed)
    interval = share if row.measure == "share" else difference
    prompt, rater, values, truth = simulate(row, row.gain, studies, generator)
    _, low, high = interval(values, prompt, rater, CONFIDENCE)
    found: dict[str, Any] = {
        "design": row.name,
        "measure": row.measure,
        "truth": truth,
        "covers": float(np.mean((low <= truth) & (truth <= high))),
        "median_width": float(np.median(high - low)),
        "no_width": float(np.mean(high - low < 1e-6)),
    }
    if row.measure != "share":
        prompt, rater, values, _ = simulate(row, 0.0, studies, generator)
        _, low, high = interval(values, prompt, rater, CONFIDENCE)
        found |= {"null_above": float(np.mean(low > 0)), "null_below": float(np.mean(high < 0))}
    return found


def main() -> None:
    """Print and write the grid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--studies", type=int, default=2000, help="simulated studies a row")
    arguments = parser.parse_args()
    found = []
    print(f"{'design':52} {'of':6} {'truth':>6} {'covers':>7} {'width':>6} {'null above, below':>18}")
    for row in rows():
        found.append(one := measure(row, arguments.studies))
        null = f"{one['null_above']:.3f} {one['null_below']:.3f}" if "null_above" in one else ""
        numbers = f"{one['truth']:6.3f} {one['covers']:7.3f} {one['median_width']:6.2f} {null:>18}"
        print(f"{one['design']:52} {one['measure']:6} {numbers}", flush=True)
    versions = {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__}
    result = {"versions": versions, "studies": arguments.studies, "confidence": CONFIDENCE, "rows": found}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
