"""A last step that is not finite ends a run in order: what is no number is left out, and the next try finds the end."""

import json
import math

from kfp import dsl
from tiny_runs import MADE, TRAIN

from srpo.train.component import train


def test_a_last_step_that_is_not_finite_does_not_kill_the_component_or_its_next_try(tiny_run, tmp_path, capfd):
    """The first step's rate takes every weight out of bounds, so that the second has no finite loss."""
    config = TRAIN | {"steps": 2, "learning_rate": 1e30, "clip_norm": 1e30, "nonfinite_limit": 3, "guard_patience": 9}
    inputs = {name: dsl.Artifact(uri=str(tiny_run.artifacts[name])) for name in MADE}
    for number in (1, 2):
        folder = tmp_path / str(number)
        made = {"checkpoint": dsl.Model(uri=str(folder / "checkpoint")), "report": dsl.HTML(uri=str(folder / "report"))}
        metrics = dsl.Metrics(uri=str(folder / "metrics"))
        train.python_func(config=config, workspace=str(tiny_run.workspace), **inputs, **made, metrics=metrics)
        shown = capfd.readouterr()
        assert ("not a finite number" in shown.out + shown.err) == (number == 1)
        checkpoint = json.loads((folder / "checkpoint" / "checkpoint.json").read_text())
        assert checkpoint["step"] == 0
        assert metrics.metadata
        assert "loss" not in metrics.metadata
        assert all(math.isfinite(value) for value in metrics.metadata.values() if isinstance(value, float))
