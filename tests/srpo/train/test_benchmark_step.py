"""The benchmark of a step: the way of the full size, tried on a FLUX.1 of few and narrow layers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_whole_step_of_flux_is_measured_by_phase(tmp_path, method):
    output = tmp_path / "train_step.json"
    command = [sys.executable, ROOT / "benchmarks" / "train_step.py", "--sizes", "flux1-small", "--methods", method]
    command += ["--resolutions", "32", "--steps", "1", "--output", output]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("components", "pipelines"))}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (row,) = json.loads(output.read_text())["rows"]
    phases = {"rollout", "forward", "decode", "reward", "backward", "optimizer"}
    assert set(row["measured"]["seconds"]) == set(row["measured"]["peak_bytes"]) == phases
    assert all(seconds > 0 for seconds in row["measured"]["seconds"].values())
    assert set(row["use"]) == phases - {"optimizer"}
    assert sum(row["predicted_bytes"].values()) > 0


def test_without_a_gpu_the_full_size_is_not_measured_but_predicted(tmp_path):
    output = tmp_path / "train_step.json"
    command = [sys.executable, ROOT / "benchmarks" / "train_step.py", "--sizes", "flux1", "--methods", "lora"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("components", "pipelines"))}
    environment |= {"CUDA_VISIBLE_DEVICES": ""}
    command += ["--resolutions", "720", "--output", output]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "| rollout | 932.1 | 2.366 | not measured | not measured | not measured |" in ran.stdout
    (row,) = json.loads(output.read_text())["rows"]
    assert row["measured"] is None
    assert row["kept"] == {"blocks": 57, "decoder": True}
    assert 40 * 2**30 < sum(row["predicted_bytes"].values()) < 50 * 2**30
