"""The played API of Kubeflow Pipelines, and a machine on which nobody is logged in to a real one."""

import os
import threading

import pytest
import yaml
from kfp.client import Client
from kubeflow_server import Api
from kubernetes_server import Kubernetes

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


@pytest.fixture
def kubernetes(alone, monkeypatch, tmp_path):
    with Kubernetes() as server:
        file = tmp_path / "kubeconfig"
        file.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [{"name": "test", "cluster": {"server": f"http://{server.address}"}}],
                    "users": [{"name": "test", "user": {"token": "x"}}],
                    "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                }
            )
        )
        (tmp_path / "images.yaml").write_text(
            yaml.safe_dump({kind: f"{server.address}/srpo-{kind}@sha256:{'1' * 64}" for kind in ("cpu", "gpu")})
        )
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))
        server.file = tmp_path / "images.yaml"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
