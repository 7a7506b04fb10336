"""Several nodes for real: the job's own command in processes of this machine, from posting to the artifact."""

import json
import os
import socket
import sys

import pytest
import trainer_server
from tiny_runs import TRAIN

from srpo.train import trainjob

pytestmark = pytest.mark.real

IN = ("models", "prompts", "embeddings", "text_features")
OUT = ("checkpoint", "report", "metrics")
ALWAYS = {"guard_every": 2, "guard_tolerance": 2.0, "guard_drift": 1e9, "guard_patience": 99, "processes": 2}


@pytest.fixture
def played(cluster, monkeypatch, tmp_path):
    """The cluster, with processes of this machine as its pods."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(trainjob, "POLL", 0.2)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    cluster.then = trainer_server.Processes(tmp_path, port)
    cluster.ended = cluster.then.ended
    return cluster


def steps_shown(capfd):
    """The steps whose lines came through to our own output."""
    return [json.loads(line)["step"] for line in capfd.readouterr().out.splitlines() if line.startswith('{"stage"')]


def test_two_nodes_train_what_two_processes_of_one_pod_train(tiny_run, played, tmp_path, capfd):
    """The job's own command, in two agents of torchrun that meet on loopback, from posting to the artifact."""
    several = tiny_run.stage("train", TRAIN | ALWAYS | {"nodes": 2}, IN, OUT, tmp_path / "several")["checkpoint"]
    assert len(played.asked("POST")) == 1
    assert len(played.then.running) == 2
    assert steps_shown(capfd) == [1, 2]

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


def test_a_lost_node_ends_the_job_and_the_next_one_goes_on_from_the_last_checkpoint(tiny_run, played, tmp_path, capfd):
    settings = TRAIN | ALWAYS | {"nodes": 2, "steps": 6, "learning_rate": 2e-4}
    pods, lost = played.then, []

    def lose_one(cluster, job):
        """Kill the second pod as its node would be lost, once the run has a checkpoint."""
        if job and not lost and list(tiny_run.workspace.glob("state/train/*/step-000001/facts.json")):
            lost.append(cluster.pods[job["metadata"]["name"]][1]["metadata"]["name"])
            pods.running[lost[0]].kill()
        pods(cluster, job)

    played.then = lose_one
    with pytest.raises(RuntimeError):
        tiny_run.stage("train", settings, IN, OUT, tmp_path / "first")
    assert lost
    assert played.jobs == {}
    shown = steps_shown(capfd)

    played.then = pods
    checkpoint = tiny_run.stage("train", settings, IN, OUT, tmp_path / "again")["checkpoint"]
    assert len(played.asked("POST")) == 2
    again = steps_shown(capfd)
    assert 1 < again[0] <= shown[-1] + 1
    assert again[-1] == 6
    history = [json.loads(line)["step"] for line in (checkpoint / "history.jsonl").read_text().splitlines()]
    assert history == [0, 1, 2, 3, 4, 5, 6]
