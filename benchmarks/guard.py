"""The collapse guard on the tiny world: a learning rate that collapses, and what ships with the guard and without it.

    python benchmarks/guard.py --output benchmarks/results/guard.json

The real train stage (two ranks) at learning rate 1e-4 for 40 steps. The judge that reads the result is none of the
guard's inputs. About 12 minutes on two cores.
"""

import argparse
import importlib
import json
import tempfile
from pathlib import Path
from typing import Any

from tiny_world import TinyWorld, machine

from srpo.core.execution.stage import execute

GUARDED = {
    "steps": 40,
    "batch_size": 8,
    "micro_batch_size": 8,
    "learning_rate": 1e-4,
    "resolution": 32,
    "processes": 2,
    "compute_dtype": "float32",
    "guard_every": 2,
    "guard_tolerance": 0.04,
    "trackers": (),
}
# What ships without the guard: every reading is sound, so the last step with the most style.
UNGUARDED = GUARDED | {"guard_every": 40, "guard_tolerance": 2.0, "guard_drift": 1e9, "guard_patience": 99}


def ship(world: TinyWorld, config: dict[str, Any], seed: int, out: Path) -> dict[str, Any]:
    """Train with ``config`` and judge what ships: 64 held-out prompts x 2 noises."""
    inputs = {name: world.artifacts[name] for name in ("models", "prompts", "embeddings", "text_features")}
    stage = importlib.import_module("srpo.train.run").STAGE
    execute(stage, config | {"seed": seed}, world.workspace, inputs, {"checkpoint": out})
    checkpoint = json.loads((out / "checkpoint.json").read_text(encoding="utf-8"))
    judged = world.judge(world.flux(world.workspace / checkpoint["weights"]), seed, noises=2)
    return {"step": checkpoint["step"], "stopped": checkpoint["collapsed"]} | judged


def main() -> None:
    """Run all seeds, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    print("| seed | model | ships step | P(realistic) | content | Fréchet | held-out |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.seeds):
            world = TinyWorld(Path(folder) / f"seed-{seed}", seed, 320)
            models = {"base": {"step": 0} | world.judge(world.flux(), seed, noises=2)}
            for name, config in (("guarded", GUARDED), ("unguarded", UNGUARDED)):
                models[name] = ship(world, config, seed, Path(folder) / f"{name}-{seed}")
            for name, found in models.items():
                values = [found[key] for key in ("p_realistic", "content", "frechet", "held_out.score")]
                print(
                    f"| {seed} | {name} | {found['step']} | " + " | ".join(f"{v:.3f}" for v in values) + " |",
                    flush=True,
                )
            rows.append({"seed": seed, **models})
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"machine": machine(), "settings": GUARDED, "seeds": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
