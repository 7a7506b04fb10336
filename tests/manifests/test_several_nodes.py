"""manifests/several-nodes: what the training pods are, whom they let in, and what may start them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trainer_server
import yaml
from kubeflow_trainer_api import models
from test_manifests import render

from srpo.core.execution.environment import PREFIX
from srpo_pipelines.resources import CACHE, ENVIRONMENT, MOUNT, TRACKERS, UNDISTURBED, USER, VOLUME, images

JOB = {
    "metadata": {"name": "srpo-train-a1"},
    "spec": {
        "trainer": {
            "image": trainer_server.IMAGE,
            "numNodes": 2,
            "command": ["python", "-m", "torch.distributed.run"],
            "resourcesPerNode": {kind: {"cpu": "16", "nvidia.com/gpu": "8"} for kind in ("limits", "requests")},
        }
    },
}


@pytest.fixture(scope="module")
def rendered():
    return {one["kind"]: one for one in yaml.safe_load_all(render("manifests/several-nodes"))}


@pytest.fixture(params=["runtime", "job"])
def pod(request, rendered):
    """The runtime's own pod, and what a job makes of it."""
    runtime = rendered["TrainingRuntime"]
    if request.param == "job":
        return trainer_server.pods_of(JOB, runtime)[0]
    (group,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    template = group["template"]["spec"]["template"]
    return {"apiVersion": "v1", "kind": "Pod", **template, "metadata": template["metadata"] | {"name": "pod"}}


def test_kubernetes_own_kinds_are_valid(rendered, pod, tmp_path):
    known = [one for kind, one in rendered.items() if kind != "TrainingRuntime"]
    (tmp_path / "rendered.yaml").write_text(yaml.safe_dump_all([*known, pod]))
    command = [Path(sys.executable).with_name("kubernetes-validate"), "--strict", tmp_path / "rendered.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_runtime_has_fields_of_the_published_schema_only(rendered):
    """Kubeflow's models know every field of the API, and drop what is none."""
    runtime = rendered["TrainingRuntime"]
    assert models.TrainerV1alpha1TrainingRuntime.from_dict(runtime).to_dict() == runtime
    wrong = runtime | {"spec": runtime["spec"] | {"podSpecOverrides": []}}
    assert models.TrainerV1alpha1TrainingRuntime.from_dict(wrong).to_dict() != wrong


@pytest.mark.real
def test_the_trainer_that_kubeflow_ships_knows_the_fields_too(rendered, tmp_path):
    """Kubeflow's manifests ship 2.2, the client is of 2.3; another process reads the older models."""
    wheel = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path]
    subprocess.run([*wheel, "kubeflow_trainer_api==2.2.0"], check=True)
    program = """if True:
        import json, sys
        from kubeflow_trainer_api import models
        kind, given = json.load(sys.stdin)
        assert getattr(models, kind).from_dict(given).to_dict() == given"""
    job = {"runtimeRef": {"name": "srpo-train"}, "activeDeadlineSeconds": 60, "runtimePatches": PATCHES}
    for kind, given in (
        ("TrainerV1alpha1TrainingRuntime", rendered["TrainingRuntime"]),
        ("TrainerV1alpha1TrainJobSpec", job | {"trainer": JOB["spec"]["trainer"]}),
    ):
        command = [sys.executable, "-c", program]
        environ = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, input=json.dumps([kind, given]), capture_output=True, text=True, env=environ)
        assert done.returncode == 0, done.stderr


# What srpo.train.trainjob.placed makes of a node selector and tolerations.
PATCHES = [
    {
        "manager": "trainer.kubeflow.org/kubeflow-sdk",
        "trainingRuntimeSpec": {
            "template": {
                "spec": {
                    "replicatedJobs": [
                        {
                            "name": "node",
                            "template": {"spec": {"template": {"spec": {"nodeSelector": {"pool": "h100"}}}}},
                        }
                    ]
                }
            }
        },
    }
]


def test_the_pods_pass_a_security_review(pod):
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "runAsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert not any("hostPath" in volume for volume in spec["volumes"])
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["cpu"]
        assert "@sha256:" in container["image"] or container["image"].partition(":")[2] not in ("", "latest")


def test_the_pods_have_what_the_training_pod_of_one_node_has(pod):
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    claims = {one["name"]: one.get("persistentVolumeClaim", {}).get("claimName") for one in spec["volumes"]}
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert claims[mounts[MOUNT]] == VOLUME
    assert {CACHE, "/tmp", "/dev/shm"} < set(mounts)
    references = [one["valueFrom"]["secretKeyRef"] for one in container["env"] if "valueFrom" in one]
    assert all(one["optional"] for one in references)
    (secret,) = TRACKERS
    assert {(one["name"], one["key"]) for one in references} == {(secret, key) for key in TRACKERS[secret]}
    assert [one["name"] for one in container["env"] if "valueFrom" in one] == list(TRACKERS[secret].values())
    assert pod["metadata"]["annotations"] == UNDISTURBED
    # The same names as in the pods of the pipeline.
    assert container["envFrom"] == [{"prefix": PREFIX, "configMapRef": {"name": ENVIRONMENT, "optional": True}}]


def test_the_runtime_names_the_released_image_and_takes_a_jobs_own(rendered):
    (group,) = rendered["TrainingRuntime"]["spec"]["template"]["spec"]["replicatedJobs"]
    (container,) = group["template"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == images()["gpu"]
    assert container["name"] == group["name"] == "node"  # by these names the Trainer finds it


def test_the_pods_let_in_each_other_and_nobody_else(rendered, pod):
    policy = rendered["NetworkPolicy"]["spec"]
    labels = pod["metadata"]["labels"].items()
    assert policy["podSelector"]["matchLabels"].items() <= labels
    assert policy["policyTypes"] == ["Ingress"]
    ((peer,),) = [rule["from"] for rule in policy["ingress"]]
    assert peer["podSelector"]["matchLabels"].items() <= labels


def test_the_account_of_runs_has_the_role(rendered):
    binding = rendered["RoleBinding"]
    assert binding["roleRef"]["name"] == rendered["Role"]["metadata"]["name"]
    (account,) = [one for one in yaml.safe_load_all(render("manifests/base")) if one["kind"] == "ServiceAccount"]
    assert [one["name"] for one in binding["subjects"]] == [account["metadata"]["name"]]
    assert {one["metadata"]["labels"]["app.kubernetes.io/part-of"] for one in rendered.values()} == {"srpo"}
