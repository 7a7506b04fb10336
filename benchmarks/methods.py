"""SRPO and the methods it is compared with, on the tiny world: the same words, rollouts, steps and seeds for each.

    python benchmarks/methods.py --output benchmarks/results/methods.json

Reads every method along its training, so that methods are compared at equal steps and at equal style: a method that
moves less far keeps more of the content, which says nothing. About 20 minutes on one core, less on several.
"""

import argparse
import itertools
import json
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from tiny_world import TinyWorld, machine, settings

from srpo.train.step import gradient_step

STEPS, EVERY = 30, 10
METHODS: dict[str, dict[str, Any]] = {
    "SRPO": {},
    "Direct-Align, positive word": {"reward_form": "sgp", "branches": "denoise", "loss": "reward"},
    "Direct-Align, plain reward": {"reward_form": "plain", "branches": "denoise", "loss": "reward"},
    "ReFL, positive word": {"method": "refl", "reward_form": "sgp", "loss": "reward"},
    "DRaFT-1, positive word": {"method": "draft", "reward_form": "sgp", "loss": "reward"},
    "DRaFT-LV, positive word": {"method": "draft_lv", "reward_form": "sgp", "loss": "reward"},
}
MEASURES = ("reward.srp", "p_realistic", "content", "frechet", "held_out.score", "saturation")


def train(task: tuple[str, int, str]) -> dict[str, Any]:
    """One method with one seed: what the judge sees every few steps, step 0 included."""
    name, seed, folder = task
    world = TinyWorld(Path(folder) / f"seed-{seed}", seed, STEPS * 8)
    config = settings(seed=seed, steps=STEPS, **METHODS[name])
    flux = world.flux()
    optimizer = torch.optim.AdamW(
        flux.transformer.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    curve = [{"step": 0} | world.judge(flux, seed)]
    rows = list(range(config.batch_size))
    for step in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        gradient_step(config, flux, [world.reward], world.texts, step, rows, 1 / config.batch_size)
        torch.nn.utils.clip_grad_norm_(flux.transformer.parameters(), config.clip_norm)
        optimizer.step()
        if (step + 1) % EVERY == 0:
            curve.append({"step": step + 1} | world.judge(flux, seed))
    print(
        f"{name}, seed {seed}: P(realistic) {curve[0]['p_realistic']:.3f} -> {curve[-1]['p_realistic']:.3f}", flush=True
    )
    return {"method": name, "seed": seed, "curve": curve}


def at_step(curve: list[dict[str, float]], step: int) -> dict[str, float]:
    """The reading at a step."""
    return next(point for point in curve if point["step"] == step)


def at_style(curve: list[dict[str, float]], style: float) -> dict[str, float] | None:
    """The readings where P(realistic) first reaches ``style``, interpolated; None where it never does."""
    for before, after in itertools.pairwise(curve):
        if before["p_realistic"] < style <= after["p_realistic"]:
            share = (style - before["p_realistic"]) / (after["p_realistic"] - before["p_realistic"])
            return {name: before[name] + share * (after[name] - before[name]) for name in (*MEASURES, "step")}
    return None


def interval(values: list[float]) -> str:
    """Mean and 95 % t-interval over seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return f"{mean:.3f}"
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return f"{mean:.3f} ± {half:.3f}"


def table(results: list[dict[str, Any]], step: int | None, style: float | None) -> str:
    """A Markdown table at equal steps, or at equal style."""
    columns = list(MEASURES) + (["step"] if step is None else [])
    lines = [f"| method | seeds | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for name in METHODS:
        curves = [result["curve"] for result in results if result["method"] == name]
        points = [at_step(curve, step) if step is not None else at_style(curve, style or 0) for curve in curves]
        found = [point for point in points if point is not None]
        cells = [interval([point[column] for point in found]) if found else "never" for column in columns]
        lines.append(f"| {name} | {len(found)} of {len(curves)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run all methods and seeds, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--style", type=float, default=0.4, help="P(realistic) at which methods are compared")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # One workspace a seed; the first method of a seed fills it before the others come.
        tasks = [(name, seed, folder) for name in METHODS for seed in range(arguments.seeds)]
        with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
            results = pool.map(train, tasks, chunksize=1)
    tables = {
        "at 30 steps": table(results, 30, None),
        f"at P(realistic) = {arguments.style}": table(results, None, arguments.style),
    }
    for title, text in tables.items():
        print(f"\n{title}\n\n{text}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine(), "steps": STEPS, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
