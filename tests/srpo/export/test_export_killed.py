"""SIGKILL at fifty moments of an export to a real S3 server: the channel always points to a whole release."""

import os
import random
import signal
import threading
import time

import pytest
from test_export import Run

from srpo.core.storage import s3, upload
from srpo.core.storage.consumers import verify
from srpo.core.storage.releases import read_channel

pytestmark = pytest.mark.real
KILLS = 50


def export(run, destination):
    return run.export(destination, sample_prompts=0)[0]["id"]


def killed_export(run, destination, seconds):
    """Export in a process of its own that is killed after ``seconds``, unless it was faster."""
    process = os.fork()
    if process == 0:
        try:
            s3._client.cache_clear()  # connections are not shared between processes
            export(run, destination)
        finally:
            os._exit(0)
    killer = threading.Timer(seconds, os.kill, (process, signal.SIGKILL))
    killer.start()
    _, status = os.waitpid(process, 0)
    killer.cancel()
    killer.join()
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_moment_leaves_a_whole_release_and_a_second_try_finishes(tmp_path, s3_server, monkeypatch):
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(upload, "PART", 1 << 16)
    destination = f"s3://{s3_server.bucket()}/with a space"
    run = Run(tmp_path, weights=bytes(range(256)) * 1000)
    old = export(run, destination)
    run.evaluation["verdict"] = "How long it takes."
    started = time.monotonic()
    old = export(run, destination)
    whole = time.monotonic() - started
    moments = random.Random(0)
    kills = 0
    for number in range(KILLS):
        run.evaluation["verdict"] = f"Run {number}."
        kills += killed_export(run, destination, moments.uniform(0, whole))
        pointed = read_channel(destination, "candidate")["release"]
        new = export(run, destination)
        assert pointed in (old, new)
        assert read_channel(destination, "candidate")["release"] == new != old
        assert verify(f"{destination}@{new}") == []
        old = new
    assert kills > 0
