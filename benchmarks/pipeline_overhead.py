"""What the pipeline costs beyond its stages' work: a small run from nothing, and again when everything is finished.

    python benchmarks/pipeline_overhead.py --output benchmarks/results/pipeline_overhead.json

A task is a process of its own: it starts Python, imports what its stage needs and computes the content key. That, and
Kubeflow's local runner around it, is what this measures: wall time less the seconds that the stages state for
themselves. The second run finds every result and does no work. Three minutes.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from demo import srpo_run
from tiny_world import machine

SMALL = ("steps=2", "train.guard_prompts=2", "sample.noises=1", "sample_shards=1")


def measured(wall: float, stages: dict[str, float], stages_run: int) -> dict[str, Any]:
    """Seconds of a run: all, in stages, beyond them, and that by stage."""
    inside = sum(stages.values())
    found = {
        "wall": wall,
        "in stages": inside,
        "beyond": wall - inside,
        "beyond, a stage": (wall - inside) / stages_run,
    }
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    """Run twice, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    arguments = parser.parse_args()
    rows = {}
    with TemporaryDirectory() as folder:
        for name in ("from nothing", "all finished"):
            wall, summary = srpo_run(Path(folder) / "run", *SMALL)
            rows[name] = measured(wall, summary["seconds"], len(summary["seconds"]))
    print("| run | " + " | ".join(rows["from nothing"]) + " |\n" + "|---" * 5 + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(map(str, row.values())) + " |")
    result = {"machine": machine(), "settings": SMALL, "rows (s)": rows}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
