"""Cheaper rollouts and several injections: what they save, and what the independent judge says at the end.

    python benchmarks/recipes_quality.py --output benchmarks/results/recipes_quality.json

Every recipe trains the tiny model for 30 steps from the same seeds. An image-step is one prompt's rollout and gradient
step, prompts times injections of a step; recipes of 32 have the same number of gradient passes, those of 64 and 128 two
and four times as many. The judge sees 64 held-out prompts, the same noise for every recipe of a seed. Speed is
image-steps a second against the plain way of reference_step.py, which takes a turn twice in every training, both on all
cores. The least time of a step counts: what else the machine does only adds, but let it be idle. Nine minutes on two
cores.
"""

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from methods import interval
from reference_step import Plain
from tiny_world import TinyWorld, machine, settings

from srpo.train.step import gradient_step

STEPS, PROMPTS, ROWS, TURNS = 30, 32, 32, 15
RECIPES: dict[str, dict[str, Any]] = {
    "as published": {},
    "rollouts of 10 steps": {"rollout_steps": 10},
    "rollouts of 10 steps, 2 injections": {"rollout_steps": 10, "injections": 2},
    "rollouts of 10 steps, 4 injections": {"rollout_steps": 10, "injections": 4},
    "16 prompts x 2 injections": {"batch_size": 16, "injections": 2},
}
MEASURES = ("p_realistic", "content", "frechet", "held_out.score", "saturation")


def train(world: TinyWorld, name: str, seed: int) -> dict[str, Any]:
    """One recipe with one seed: what the judge sees at the end; the least seconds of an image-step, ours and plain."""
    config = settings(seed=seed, **{"batch_size": PROMPTS, "micro_batch_size": ROWS} | RECIPES[name])
    images = config.batch_size * config.injections
    flux = world.flux()
    plain, once = Plain(world, world.flux()), settings(seed=seed, batch_size=2)
    optimizer = torch.optim.AdamW(
        flux.transformer.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for step in range(STEPS):
        started = time.perf_counter()
        rows = list(range(config.batch_size))
        gradient_step(config, flux, [world.reward], world.texts, step, rows, 1 / config.batch_size)
        seconds["ours"].append((time.perf_counter() - started) / images)
        torch.nn.utils.clip_grad_norm_(flux.transformer.parameters(), config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % TURNS == 0:
            started = time.perf_counter()
            plain.step(once, step)
            seconds["plain"].append((time.perf_counter() - started) / once.batch_size)
    return (
        {"recipe": name, "seed": seed, "image_steps": images}
        | world.judge(flux, seed)
        | {k: min(v) for k, v in seconds.items()}
    )


def table(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row a recipe: image-steps a second, the ratio to the plain way, and the judge's means with 95 % intervals."""
    least = min(result["plain"] for result in results)
    rows = []
    for name in RECIPES:
        found = [result for result in results if result["recipe"] == name]
        ours = min(result["ours"] for result in found)
        row = {
            "recipe": name,
            "image_steps": found[0]["image_steps"],
            "per_second": round(1 / ours, 1),
            "ratio": round(least / ours, 1),
        }
        rows.append(row | {measure: interval([result[measure] for result in found]) for measure in MEASURES})
    return rows


def main() -> None:
    """Train all, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch, for both")
    arguments = parser.parse_args()
    results = []
    with TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            world = TinyWorld(Path(folder), seed, STEPS * PROMPTS)
            torch.set_num_threads(arguments.threads)
            for name in RECIPES:
                results.append(train(world, name, seed))
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in results[-1].items()}, flush=True)
    rows = table(results)
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(map(str, row.values())) + " |")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    found = {"machine": machine(), "threads": arguments.threads, "steps": STEPS, "table": rows, "results": results}
    arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
