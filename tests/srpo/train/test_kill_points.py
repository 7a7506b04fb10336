"""Twenty kills at random moments: an interrupted run always ends like one that was never interrupted."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from test_ranks import ALWAYS, IN, launch, ranks_of, train, wait_for, weights_folder
from tiny_runs import TRAIN

KILLS = 20


@pytest.mark.real
def test_kills_at_random_moments_lose_nothing(tiny_run, tmp_path):
    from pathlib import Path

    from srpo.core.storage.models import read_models
    from srpo.train.config import Config
    from srpo.train.run import Inputs, job_of

    config = TRAIN | ALWAYS | {"steps": 6, "guard_every": 3}
    expected = weights_folder(tiny_run, train(tiny_run, "uninterrupted", **ALWAYS | {"steps": 6, "guard_every": 3}))
    inputs = Inputs(**{name: tiny_run.artifacts[name] for name in IN})
    job = job_of(Config(), inputs, read_models(inputs.models, tiny_run.workspace), Path("unused"), tiny_run.workspace)
    started = time.monotonic()
    assert launch(tmp_path / "timing", config, job).wait(timeout=300) == 0
    whole = time.monotonic() - started
    chooser, kills, attempt = random.Random(7), 0, 0
    while kills < KILLS:
        state = tmp_path / f"run-{attempt}"
        attempt += 1
        for _ in range(4):  # up to four kills in one run, then it may finish
            process = launch(state, config, job)
            try:
                process.wait(timeout=chooser.uniform(0.3, 1.0) * whole)
                break
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=60)
                wait_for(lambda: not ranks_of(state))  # noqa: B023  # it is called at once
                kills += 1
        else:
            assert launch(state, config, job).wait(timeout=300) == 0
        found = state / "weights-000006"
        assert {p.name: p.read_bytes() for p in found.iterdir()} == {p.name: p.read_bytes() for p in expected.iterdir()}
        assert not list(state.glob(".*.partial")), "what a killed try was writing is removed"
    print(f"{kills} kills over {attempt} runs of {whole:.0f} s", file=sys.stderr)
