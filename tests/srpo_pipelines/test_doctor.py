"""`srpo doctor` with the real Kubernetes client, against a server on this machine that plays the API."""

import copy
from pathlib import Path

import boto3
import moto
import pytest
from kubernetes_server import ARGO, GPUS, NAMESPACE, QUEUES, RUNTIMES, SECRET, TAINT, defaults, examined, node

from srpo_pipelines.cli import main
from srpo_pipelines.doctor import check_bucket

ROOT = Path(__file__).resolve().parents[2]


def test_a_sound_cluster_is_ready(capsys, kubernetes, server):
    code, lines, last = examined(capsys, kubernetes, *GPUS, "--host", server.url)
    assert (code, last) == (0, "ready, 0 to know"), lines
    assert set(lines) == {
        *("kubeflow", "namespace", "service account", "rights", "volume", "artifacts", "secret", "config map"),
        *("retries", "nodes", "image"),
    }
    assert all(line.startswith("ok ") for line in lines.values()), lines
    assert "the largest has 8 nvidia.com/gpu" in lines["nodes"]


@pytest.mark.parametrize(
    ("tag", "state", "said"),
    [
        ("2.15.2", "ok", "version 2.15.2"),
        ("2.5.0", "fail", "version 2.5.0: it refuses the package -> install one of 2.15, 2.16, 2.17"),
        ("2.18.1", "note", "not one that was tried -> it gets the package for 2.17"),
        ("", "note", "version not told: not one that was tried -> it gets the package for 2.15"),
    ],
)
def test_the_version_of_kubeflow_is_looked_at(capsys, kubernetes, server, tag, state, said):
    server.version = tag
    code, lines, _ = examined(capsys, kubernetes, "--host", server.url)
    assert code == (state == "fail")
    assert lines["kubeflow"].startswith(f"{state} ")
    assert lines["kubeflow"].endswith(said)


def test_nothing_on_the_cluster_is_changed(capsys, kubernetes):
    before = copy.deepcopy(kubernetes.there)
    assert examined(capsys, kubernetes)[0] == 0
    assert kubernetes.there == before
    writes = {path for method, path in kubernetes.asked if method not in ("GET", "HEAD")}
    assert writes == {"/apis/authorization.k8s.io/v1/subjectaccessreviews"}  # a question, though it is posted


@pytest.mark.parametrize(
    ("gone", "about", "state", "said"),
    [
        (NAMESPACE, "namespace", "fail", "--namespace"),
        (f"{NAMESPACE}/serviceaccounts/srpo-runner", "service account", "fail", "kubectl apply"),
        (f"{NAMESPACE}/persistentvolumeclaims/srpo-workspace", "volume", "fail", "kubectl apply"),
        (f"{NAMESPACE}/configmaps/srpo-environment", "config map", "note", "only needed"),
        (f"{NAMESPACE}/secrets/srpo-trackers", "secret", "note", "train must log in"),
    ],
)
def test_what_is_missing_is_named_with_its_mend(capsys, kubernetes, gone, about, state, said):
    del kubernetes.there[gone]
    code, lines, last = examined(capsys, kubernetes)
    assert lines[about].startswith(state), lines
    assert said in lines[about]
    assert (code, last) == ((1, "1 to mend, 0 to know") if state == "fail" else (0, "ready, 1 to know"))


@pytest.mark.parametrize(
    ("argo", "said"),
    [
        ({"data": {}}, "retryPolicy is OnFailure: a pod that vanishes with its node ends the run"),
        (defaults("OnError"), "retryPolicy is OnError: a pod that fails ends the run"),
        (None, "there is no workflow-controller-configmap in kubeflow"),
    ],
)
def test_what_the_cluster_does_not_try_again_is_said(capsys, kubernetes, argo, said):
    kubernetes.there.pop(ARGO)
    if argo is not None:
        kubernetes.there[ARGO] = argo
    code, lines, last = examined(capsys, kubernetes)
    assert (code, last) == (0, "ready, 1 to know")
    assert lines["retries"].startswith("note")
    assert said in lines["retries"]


def test_rights_that_the_account_lacks_are_named(capsys, kubernetes):
    kubernetes.denied = {("patch", "workflowtaskresults"), ("get", "configmaps")}
    code, lines, _ = examined(capsys, kubernetes)
    assert code == 1
    assert "may not patch workflowtaskresults, get configmaps/kfp-launcher" in lines["rights"]


def test_what_one_may_not_see_is_said_and_the_rest_goes_on(capsys, kubernetes):
    kubernetes.refused = {"/api/v1/nodes", f"{NAMESPACE}/persistentvolumeclaims/srpo-workspace"}
    code, lines, last = examined(capsys, kubernetes)
    assert (code, last) == (0, "ready, 2 to know")
    assert "cannot be looked at: 403" in lines["nodes"]
    assert "cannot be looked at: 403" in lines["volume"]
    assert lines["image"].startswith("ok")


@pytest.mark.parametrize(
    ("claim", "storage", "state", "said"),
    [
        ({"phase": "Bound", "modes": ["ReadWriteOnce"]}, True, "note", "one node"),
        ({"phase": "Pending", "modes": ["ReadWriteMany"]}, False, "fail", "which does not exist"),
        ({"phase": "Pending", "modes": ["ReadWriteMany"]}, True, "fail", "kubectl describe pvc"),
        ({"phase": "Pending", "modes": ["ReadWriteMany"], "wait": True}, True, "ok", "first pod"),
    ],
)
def test_the_volume(capsys, kubernetes, claim, storage, state, said):
    there = kubernetes.there[f"{NAMESPACE}/persistentvolumeclaims/srpo-workspace"]
    there["status"]["phase"], there["spec"]["accessModes"] = claim["phase"], claim["modes"]
    if "wait" in claim:
        kubernetes.there["/apis/storage.k8s.io/v1/storageclasses/efs"]["volumeBindingMode"] = "WaitForFirstConsumer"
    if not storage:
        del kubernetes.there["/apis/storage.k8s.io/v1/storageclasses/efs"]
    _, lines, _ = examined(capsys, kubernetes)
    assert lines["volume"].startswith(state)
    assert said in lines["volume"]


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([node("cpu", 0)], "none of 1 has the labels"),
        ([node("big", 8, {"pool": "h100"}, [TAINT | {"key": "other"}])], "taints: other:NoSchedule"),
        ([node("big", 8, {"pool": "h100"}, unschedulable=True)], "taints: none"),
        ([node("small", 4, {"pool": "h100"})], "must fit on one node"),
        ([node("plain", 0, {"pool": "h100"})], "device plugin"),
    ],
)
def test_nodes_that_cannot_take_the_run(capsys, kubernetes, nodes, said):
    kubernetes.there["/api/v1/nodes"]["items"] = nodes
    code, lines, _ = examined(capsys, kubernetes)
    assert code == 1
    assert lines["nodes"].startswith("fail")
    assert said in lines["nodes"]


def test_gpus_of_another_kind_are_counted_by_their_name(capsys, kubernetes):
    allocatable = {"nvidia.com/gpu": "8", "nvidia.com/mig-3g.40gb": "4"}
    kubernetes.there["/api/v1/nodes"]["items"][1]["status"]["allocatable"] = allocatable
    _, lines, _ = examined(capsys, kubernetes, *GPUS, "--set", "gpu_type=nvidia.com/mig-3g.40gb")
    assert lines["nodes"].startswith("fail")
    assert "the largest has 4 nvidia.com/mig-3g.40gb" in lines["nodes"]


def test_without_gpus_no_node_is_looked_at(capsys, kubernetes):
    kubernetes.there["/api/v1/nodes"]["items"] = []
    assert examined(capsys, kubernetes, "--recipe", "demo")[0] == 0


@pytest.mark.parametrize(("status", "state", "code"), [(404, "fail", 1), (401, "note", 0), (200, "ok", 0)])
def test_images(capsys, kubernetes, status, state, code):
    kubernetes.images = status
    found, lines, _ = examined(capsys, kubernetes)
    assert found == code
    assert lines["image"].startswith(state)
    assert ("HEAD", f"/v2/srpo-gpu/manifests/sha256:{'1' * 64}") in kubernetes.asked


SEVERAL = (
    *("--set", "gpus=4", "--set", "num_nodes=2", "--set", "train.processes=8", "--set", "node_selector={pool: h100}"),
    *("--set", "tolerations=[{key: nvidia.com/gpu, operator: Exists}]", "--set", "train.queue=research"),
)


def test_several_nodes_are_ready(capsys, kubernetes):
    code, lines, last = examined(capsys, kubernetes, *SEVERAL)
    assert (code, last) == (0, "ready, 0 to know"), lines
    assert "runtime srpo-train" in lines["several nodes"]
    assert "LocalQueue research" in lines["queue"]
    assert "several nodes" not in examined(capsys, kubernetes)[1]  # one is enough for the usual run


@pytest.mark.parametrize(
    ("gone", "about", "said"),
    [
        ("/apis/trainer.kubeflow.org/v1alpha1", "several nodes", "install Kubeflow Trainer"),
        (f"{RUNTIMES}/srpo-train", "several nodes", "--kustomize manifests/several-nodes"),
        (f"{QUEUES}/research", "queue", "train.queue"),
    ],
)
def test_what_several_nodes_lack_is_named_with_its_mend(capsys, kubernetes, gone, about, said):
    del kubernetes.there[gone]
    code, lines, _ = examined(capsys, kubernetes, *SEVERAL)
    assert code == 1
    assert lines[about].startswith("fail")
    assert said in lines[about]


def test_a_queue_needs_kueue(capsys, kubernetes):
    kubernetes.there["/apis/"] = {"groups": []}
    _, lines, _ = examined(capsys, kubernetes, *SEVERAL)
    assert lines["queue"].startswith("fail")
    assert "Kueue is not installed" in lines["queue"]


def test_rights_for_several_nodes(capsys, kubernetes):
    kubernetes.denied = {("get", "pods/log"), ("patch", "trainjobs")}
    code, lines, _ = examined(capsys, kubernetes, *SEVERAL)
    assert code == 1
    assert "may not patch trainjobs, get pods/log -> kubectl apply" in lines["several nodes"]


def test_a_pool_that_is_too_small_for_all_nodes_is_told(capsys, kubernetes):
    code, lines, _ = examined(
        capsys, kubernetes, *SEVERAL, "--set", "num_nodes=3", "--set", "train.processes=12", "--set", "batch_size=12"
    )
    assert code == 0
    assert lines["nodes"].startswith("note")
    assert "room for 2 of 3 training pods" in lines["nodes"]


def test_the_bucket_is_tried(capsys, kubernetes, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        assert check_bucket("s3://absent/runs").state == "fail"
        boto3.client("s3").create_bucket(Bucket="there")
        found = check_bucket("s3://there/runs")
        assert found.state == "ok", found
        assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="there")


def test_a_cluster_that_does_not_answer_is_one_line(capsys, kubernetes, monkeypatch, tmp_path):
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    assert main(["doctor"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("srpo: no usable kubeconfig")
    assert error.count("\n") == 1
