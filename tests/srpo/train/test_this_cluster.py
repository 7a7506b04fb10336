"""How the task that starts several nodes finds the cluster it is in."""

import pytest
from kubernetes.config import incluster_config

from srpo.core.contracts.errors import InputError
from srpo.train.nodes import NAMESPACE, POD, this_cluster


@pytest.fixture
def pod(monkeypatch, tmp_path):
    """What Kubernetes and the package give a pod."""
    for name, content in (("SERVICE_TOKEN_FILENAME", "a-token"), ("SERVICE_CERT_FILENAME", "a certificate")):
        (tmp_path / name).write_text(content)
        monkeypatch.setattr(incluster_config, name, str(tmp_path / name))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv(POD, "align-x7-train")
    monkeypatch.setenv(NAMESPACE, "team")
    return tmp_path


def test_a_pod_knows_its_cluster_by_its_service_account(pod, monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")  # for what is outside of the cluster
    found = this_cluster()
    assert (found.namespace, found.pod) == ("team", "align-x7-train")
    assert found.configuration.host == "https://192.0.2.1:443"
    assert found.configuration.ssl_ca_cert == str(pod / "SERVICE_CERT_FILENAME")
    assert found.configuration.proxy is None
    assert found.configuration.get_api_key_with_prefix("authorization").lower() == "bearer a-token"


@pytest.mark.parametrize("missing", ["KUBERNETES_SERVICE_HOST", POD, NAMESPACE])
def test_what_is_no_pod_of_the_package_is_refused(pod, monkeypatch, missing):
    monkeypatch.delenv(missing)
    with pytest.raises(InputError, match="num_nodes above 1 starts pods on a cluster"):
        this_cluster()
