"""A server on this machine that plays the Kubernetes API for `srpo doctor`, and the command asked against it."""

import http.server
import json
import urllib.parse

import yaml

from srpo_pipelines.cli import main

NAMESPACE = "/api/v1/namespaces/team"
LAUNCHER = f"{NAMESPACE}/configmaps/kfp-launcher"
ARGO = "/api/v1/namespaces/kubeflow/configmaps/workflow-controller-configmap"
RUNTIMES = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team/trainingruntimes"
QUEUES = "/apis/kueue.x-k8s.io/v1beta2/namespaces/team/localqueues"
VERSION = {"groupVersion": "kueue.x-k8s.io/v1beta2", "version": "v1beta2"}
GROUP = {"name": "kueue.x-k8s.io", "versions": [VERSION], "preferredVersion": VERSION}
TAINT = {"key": "nvidia.com/gpu", "effect": "NoSchedule"}
SECRET = "planted-secret-4711"


def defaults(policy):
    """Argo's configuration, as Kubeflow's manifests write it."""
    strategy = {"limit": "2", "retryPolicy": policy}
    return {"data": {"workflowDefaults": yaml.safe_dump({"spec": {"templateDefaults": {"retryStrategy": strategy}}})}}


def node(name, gpus, labels=None, taints=(), **spec):
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"taints": list(taints), **spec},
        "status": {"allocatable": {"cpu": "8"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})},
    }


def sound():
    """A cluster on which everything is right: path of the API -> what is there."""
    return {
        "/version/": {
            "major": "1",
            "minor": "34",
            "gitVersion": "v1.34.0",
            "gitCommit": "",
            "gitTreeState": "",
            "buildDate": "",
            "goVersion": "",
            "compiler": "",
            "platform": "",
        },
        NAMESPACE: {"metadata": {"name": "team", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        f"{NAMESPACE}/serviceaccounts/srpo-runner": {"imagePullSecrets": [{"name": "registry"}]},
        f"{NAMESPACE}/persistentvolumeclaims/srpo-workspace": {
            "spec": {"storageClassName": "efs", "accessModes": ["ReadWriteMany"]},
            "status": {"phase": "Bound"},
        },
        "/apis/storage.k8s.io/v1/storageclasses/efs": {"provisioner": "efs", "volumeBindingMode": "Immediate"},
        LAUNCHER: {"data": {"defaultPipelineRoot": "s3://bucket/kfp"}},
        ARGO: defaults("Always"),
        f"{NAMESPACE}/configmaps/srpo-environment": {"data": {"AWS_REGION": "eu-central-1"}},
        **{
            f"{NAMESPACE}/secrets/{name}": {"data": {"KEY": SECRET}}
            for name in ("srpo-s3", "srpo-hub", "srpo-trackers")
        },
        "/apis/trainer.kubeflow.org/v1alpha1": {"groupVersion": "trainer.kubeflow.org/v1alpha1", "resources": []},
        f"{RUNTIMES}/srpo-train": {"metadata": {"name": "srpo-train"}},
        "/apis/": {"groups": [GROUP]},
        f"{QUEUES}/research": {"metadata": {"name": "research"}},
        "/api/v1/nodes": {"items": [node("cpu", 0), node("big", 8, {"pool": "h100"}, [TAINT])]},
    }


class Kubernetes(http.server.ThreadingHTTPServer):
    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.there = sound()
        self.denied = set()  # rights that the account lacks: (verb, resource)
        self.refused = set()  # paths that the person may not see
        self.asked = []
        self.images = 200

    @property
    def address(self):
        return f"127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        self.server.asked.append((self.command, path))
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "null")
        if path.startswith("/v2/"):
            self.reply(self.server.images, {})
        elif path in self.server.refused:
            self.reply(403, {"message": "not for you"})
        elif path.endswith("/subjectaccessreviews"):
            asked = body["spec"]["resourceAttributes"]
            resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
            allowed = (asked["verb"], resource) not in self.server.denied
            if asked["resource"] == "secrets":
                assert body["spec"]["user"] == "system:serviceaccount:kubeflow:ml-pipeline-ui"
            else:
                assert body["spec"]["user"] == "system:serviceaccount:team:srpo-runner"
            self.reply(201, body | {"status": {"allowed": allowed}})
        elif path in self.server.there:
            self.reply(200, self.server.there[path])
        else:
            self.reply(404, {"message": f"no {path}"})

    do_POST = do_HEAD = do_GET  # noqa: N815

    def reply(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


GPUS = (
    *("--set", "gpus=8", "--set", "train.processes=8", "--set", "node_selector={pool: h100}"),
    *("--set", "tolerations=[{key: nvidia.com/gpu, operator: Exists}]"),
)


def examined(capsys, kubernetes, *arguments):
    """Exit code, and the lines by what they are about."""
    try:
        code = main(["doctor", "--namespace", "team", "--images", str(kubernetes.file), *(arguments or GPUS)])
    except SystemExit as end:
        code = end.code
    shown = capsys.readouterr()
    assert SECRET not in shown.out + shown.err
    assert not shown.err
    lines = shown.out.splitlines()
    return code, {line[6:22].strip(): line for line in lines[:-1]}, lines[-1]
