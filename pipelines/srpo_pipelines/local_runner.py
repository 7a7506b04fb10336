"""Run a compiled package with KFP's own local runner: the process behind `srpo run`, a process of its own.

Usage: ``python -m srpo_pipelines.local_runner PACKAGE ARGUMENTS.json PIPELINE_ROOT``. It prints what KFP prints.
"""

import json
import sys
import traceback
import warnings
from pathlib import Path


def main(package: str, arguments: str, pipeline_root: str) -> int:
    """Load the package from its file and run it unchanged; returns the exit code."""
    from kfp import components, local

    # Of images whose name lacks "python", and of CPU limits that mean nothing here.
    warnings.filterwarnings("ignore", message=".*(non-Python base image|no effect in the current local runner).*")
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=pipeline_root)
    pipeline = components.load_component_from_file(package)
    try:
        pipeline(**json.loads(Path(arguments).read_text(encoding="utf-8")))
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
