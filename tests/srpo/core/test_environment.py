"""What a pod is told under our own names reaches the libraries under theirs, and nothing that is set is changed."""

import os
import subprocess
import sys

import pytest

from srpo.core.execution import environment
from srpo.core.execution.environment import own_name, take_own_names

NAMES = (*environment.KEYS, *environment.HUB, *environment.TRACKERS, *environment.PLACES)


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """None of the variables, under no name; what a test makes of them goes with it."""
    for name in NAMES:
        for one in (name, name.lower(), own_name(name)):
            monkeypatch.setenv(one, "")  # so that it is put back, whatever the test writes
            monkeypatch.delenv(one)


def given(monkeypatch, **values):
    """Set ``values``, take our names, and return what stands under the plain ones."""
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    take_own_names()
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_each_name_of_ours_becomes_the_plain_one(monkeypatch):
    assert given(monkeypatch, **{own_name(name): f"value of {name}" for name in NAMES}) == {
        name: f"value of {name}" for name in NAMES
    }


def test_what_is_set_already_stays(monkeypatch):
    found = given(monkeypatch, AWS_REGION="eu-central-1", SRPO_AWS_REGION="us-east-1", SRPO_HF_TOKEN="")
    assert found == {"AWS_REGION": "eu-central-1"}


def test_a_login_is_taken_whole_or_not_at_all(monkeypatch):
    """A session token beside another one's keys, or a token for another server, would be refused, or leak."""
    ours = {"SRPO_AWS_SESSION_TOKEN": "ours", "SRPO_MLFLOW_TRACKING_TOKEN": "ours"}
    found = given(monkeypatch, AWS_ACCESS_KEY_ID="theirs", MLFLOW_TRACKING_URI="http://plugin", **ours)
    assert found == {"AWS_ACCESS_KEY_ID": "theirs", "MLFLOW_TRACKING_URI": "http://plugin"}


def test_a_proxy_of_the_cluster_is_not_mixed_with_ours(monkeypatch):
    found = given(monkeypatch, https_proxy="http://theirs", SRPO_HTTPS_PROXY="http://ours", SRPO_NO_PROXY="internal")
    assert found == {}


def test_a_container_takes_them_before_the_hubs_client_reads_its_own(tmp_path):
    """The client keeps what ``HF_ENDPOINT`` says when it is imported."""
    program = (
        "import sys; from srpo.core.execution.stage import execute_or_exit; from srpo.fetch_base.run import STAGE\n"
        "assert 'huggingface_hub' not in sys.modules\n"
        "try: execute_or_exit(STAGE, {}, sys.argv[1], {}, {})\n"
        "except SystemExit: pass\n"
        "from huggingface_hub import constants; print(constants.ENDPOINT)"
    )
    environ = os.environ | {own_name("HF_ENDPOINT"): "http://hub.example"}
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, env=environ)
    assert done.stdout.splitlines()[-1] == "http://hub.example", done.stderr
