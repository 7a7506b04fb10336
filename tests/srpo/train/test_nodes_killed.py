"""Pods of several nodes that were killed: a new job goes on from the newest checkpoint, a few times."""

import re

import pytest
from test_nodes import CONFIG, IMAGE, NAME, state  # noqa: F401

from srpo.train.run import run_ranks

STATUS = {"name": "node", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0}


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ({"exitCode": 1, "reason": "OOMKilled"}, "killed for its memory (OOMKilled)"),
        ({"exitCode": 137, "reason": "Error"}, "killed by SIGKILL, as the kernel does when memory is short"),
    ],
)
def test_a_pod_that_was_killed_costs_a_new_job_until_it_is_killed_at_the_same_step(
    cluster,
    state,  # noqa: F811
    capsys,
    ended,
    said,
):
    """What its peers have left says only that it is gone."""

    def then(server, job):
        if job and "status" not in job:
            number = len(server.asked("POST"))
            (state / f"step-{min(number, 2):06d}").mkdir(exist_ok=True)  # the third job gets no further than the second
            (pods,) = server.pods.values()
            pods[1]["status"]["containerStatuses"] = [STATUS | {"state": {"terminated": ended}}]
            (state / "error.txt").write_text("RuntimeError: Connection closed by peer")
            server.end("Failed", "JobsFailed")

    cluster.then = then
    with pytest.raises(RuntimeError, match=re.escape(f"a pod of TrainJob {NAME} was {said}")):
        run_ranks(CONFIG, state)
    assert len(cluster.asked("POST")) == 3
    shown = capsys.readouterr().out
    assert [f"(try {number} of 3)" in shown for number in (1, 2, 3)] == [True, True, False]
    assert "again before anything more was finished: not tried again" in shown
    assert cluster.jobs == {}
