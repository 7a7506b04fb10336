"""The played API of Kubeflow Pipelines, and a machine on which nobody is logged in to a real one."""

import os
import threading

import pytest
from kfp.client import Client
from kubeflow_server import Api

from srpo_pipelines import kubeflow


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Nothing of the person who runs the tests: no variables, no stored login; and no waiting."""
    for name in [name for name in os.environ if name.startswith("KF_PIPELINES_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    monkeypatch.setattr(kubeflow, "POLL", 0.01)
    monkeypatch.setattr(kubeflow, "MISSES", 4)


@pytest.fixture
def server(alone):
    with Api() as api:
        thread = threading.Thread(target=api.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield api
        api.shutdown()
        thread.join()
