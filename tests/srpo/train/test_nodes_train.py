"""Several nodes for real: the job's own command in processes of this machine, from posting to the artifact."""

import json
import os
import socket
import sys

import pytest
import trainer_server
from tiny_runs import TRAIN

from srpo.train import trainjob

IN = ("models", "prompts", "embeddings", "text_features")
OUT = ("checkpoint", "report", "metrics")
ALWAYS = {"guard_every": 2, "guard_tolerance": 2.0, "guard_drift": 1e9, "guard_patience": 99, "processes": 2}


@pytest.mark.real
def test_two_nodes_train_what_two_processes_of_one_pod_train(tiny_run, cluster, tmp_path, monkeypatch, capfd):
    """The job's own command, in two agents of torchrun that meet on loopback, from posting to the artifact."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(trainjob, "POLL", 0.5)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    cluster.then = trainer_server.Processes(tmp_path, port)
    several = tiny_run.stage("train", TRAIN | ALWAYS | {"nodes": 2}, IN, OUT, tmp_path / "several")["checkpoint"]
    assert len(cluster.asked("POST")) == 1
    assert len(cluster.then.running) == 2
    steps = [json.loads(line)["step"] for line in capfd.readouterr().out.splitlines() if line.startswith('{"stage"')]
    assert steps == [1, 2]

    def weights(checkpoint):
        named = json.loads((checkpoint / "checkpoint.json").read_text())
        folder = tiny_run.workspace / named["weights"]
        return named, {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}

    found, there = weights(several), json.loads((several / "manifest.json").read_text())
    # The same settings in one pod are the same result: it is found, and nothing runs. Made anew, it is the same.
    assert weights(tiny_run.stage("train", TRAIN | ALWAYS, IN, OUT, tmp_path / "found")["checkpoint"]) == found
    for kind in ("stages", "state"):
        (tiny_run.workspace / kind / "train" / there["key"]).rename(tmp_path / kind)
    one = tiny_run.stage("train", TRAIN | ALWAYS, IN, OUT, tmp_path / "one")["checkpoint"]
    assert json.loads((one / "manifest.json").read_text())["key"] == there["key"]
    assert weights(one) == found
