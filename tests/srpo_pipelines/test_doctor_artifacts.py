"""`srpo doctor` on where artifacts go: a bucket that somebody has named, and that Kubeflow's UI may read."""

import json

import pytest
from kubernetes_server import LAUNCHER, NAMESPACE, examined


@pytest.mark.parametrize("root", ["s3://srpo-artifacts/kfp", "s3://BUCKET/kfp", "s3:///kfp"])
def test_a_bucket_that_nobody_has_named_is_refused(capsys, kubernetes, root):
    kubernetes.there[LAUNCHER] = {"data": {"defaultPipelineRoot": root}}
    code, lines, _ = examined(capsys, kubernetes)
    assert code == 1
    assert lines["artifacts"].startswith("fail")
    assert f"artifacts go to {root}, a bucket that nobody here has named" in lines["artifacts"]


def test_without_a_map_of_its_own_a_namespace_has_kubeflows_store(capsys, kubernetes):
    del kubernetes.there[LAUNCHER]
    code, lines, last = examined(capsys, kubernetes)
    assert (code, last) == (0, "ready, 0 to know")
    assert "where Kubeflow was installed to put them" in lines["artifacts"]


def test_a_map_of_ours_in_kubeflows_own_namespace_is_refused(capsys, kubernetes):
    kubernetes.there[LAUNCHER]["metadata"] = {"name": "kfp-launcher", "labels": {"app.kubernetes.io/part-of": "srpo"}}
    assert examined(capsys, kubernetes)[0] == 0
    kubernetes.there[f"{NAMESPACE}/configmaps/pipeline-install-config"] = {"data": {}}
    code, lines, _ = examined(capsys, kubernetes)
    assert code == 1
    assert "it sends all pipelines of the cluster to s3://bucket/kfp" in lines["artifacts"]


def test_an_interface_that_may_not_read_the_keys_is_told(capsys, kubernetes):
    """Then the boxes' pages do not show (kubeflow/pipelines#12041)."""
    reference = {"secretName": "srpo-s3", "accessKeyKey": "A", "secretKeyKey": "B"}
    providers = {"s3": {"default": {"credentials": {"fromEnv": False, "secretRef": reference}}}}
    kubernetes.there[LAUNCHER]["data"]["providers"] = json.dumps(providers)
    assert examined(capsys, kubernetes)[2] == "ready, 0 to know"
    kubernetes.denied = {("get", "secrets")}
    code, lines, last = examined(capsys, kubernetes)
    assert (code, last) == (0, "ready, 1 to know")
    assert "may not read the secret srpo-s3: it will show no pages" in lines["pages"]
