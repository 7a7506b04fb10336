"""The demo from nothing: whole time by stage, and what came out.

    python benchmarks/demo.py --output benchmarks/results/demo.json

Runs `srpo run --recipe demo` in an empty folder, as `make demo` does after its installation. Wall time: what else the
machine does counts. Two minutes on two idle cores.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tiny_world import machine


def srpo_run(folder: Path, *settings: str) -> tuple[float, dict[str, Any]]:
    """Wall seconds of `srpo run --recipe demo` into ``folder``, and the summary that it leaves."""
    command = [sys.executable, "-m", "srpo_pipelines.cli", "run", "--recipe", "demo", "--output", str(folder)]
    for setting in settings:
        command += ["--set", setting]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started, json.loads((folder / "summary.json").read_text(encoding="utf-8"))


def main() -> None:
    """Run it, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--set", nargs="*", default=[], help="parameters of the run, name=value")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        wall, summary = srpo_run(Path(folder) / "run", *arguments.set)
    stages = summary["seconds"]
    print("| stage | seconds | share |\n|---|---|---|")
    for stage, seconds in (stages | {"starting tasks": wall - sum(stages.values()), "all": wall}).items():
        print(f"| {stage} | {seconds:.1f} | {seconds / wall:.0%} |")
    kept = {name: summary[name] for name in ("before", "after", "seconds", "seeds", "versions")}
    result = {"machine": machine(), "settings": arguments.set, "wall_seconds": round(wall, 1)} | kept
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
