"""Train under torchrun: ``torchrun --nproc-per-node 8 -m srpo.train --config train.yaml``."""

import argparse
import json
import os
from pathlib import Path

from srpo.core.contracts.config import load_yaml
from srpo.train.launcher import end_with_launcher

EXAMPLE = """example train.yaml:
  config: {steps: 20, batch_size: 32, processes: 8}
  workspace: /data/srpo
  output: /data/srpo/runs/first
  inputs:
    models: runs/demo/kfp/.../models
    prompts: .../prompts
    embeddings: .../embeddings
    text_features: .../text_features
"""


def main() -> None:
    """One rank; rank 0 also checks the input first and writes the artifact in the end."""
    end_with_launcher()  # before the imports, which take seconds
    import yaml

    from srpo.core.contracts.errors import InputError
    from srpo.core.execution.environment import take_own_names
    from srpo.train.run import finish, workstation_job
    from srpo.train.worker import work

    take_own_names()
    parser = argparse.ArgumentParser(
        prog="torchrun -m srpo.train",
        description="Train on this machine. A run that was interrupted goes on when it is started again.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--config", type=Path, help="YAML with config, workspace, inputs and output")
    group.add_argument("--job", type=Path, help="JSON that the train stage wrote")
    arguments = parser.parse_args()
    if arguments.job:
        work(json.loads(arguments.job.read_text(encoding="utf-8")))
        return
    first = os.environ.get("RANK", "0") == "0"
    try:
        settings = load_yaml(arguments.config.read_text(encoding="utf-8"))
        job = workstation_job(settings, check=first)
    except (InputError, OSError, yaml.YAMLError) as error:
        print(f"srpo: train: {error}", flush=True)
        raise SystemExit(2) from None
    work(job)
    if first:
        finish(settings)


if __name__ == "__main__":
    main()
