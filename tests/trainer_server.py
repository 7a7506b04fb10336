"""A server on this machine that plays a cluster with Kubeflow Trainer, for tests with the real TrainerClient.

It keeps TrainJobs and makes pods of them as the Trainer's torch runtime does. A test says what becomes of them.
"""

import copy
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import yaml
from kubernetes import client

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = yaml.safe_load((ROOT / "manifests/several-nodes/runtime.yaml").read_text(encoding="utf-8"))
CORE, TRAINER = "/api/v1/namespaces/team", "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team"
IMAGE = f"registry.example.org/srpo-gpu@sha256:{'1' * 64}"
WORKFLOW = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "align-x7", "uid": "w-1"}
BORN = "2026-01-01T00:00:00Z"


def launcher_pod(workflow=WORKFLOW):
    """The pod of the task that starts the job, as Argo makes it."""
    owner = workflow | {"controller": True, "blockOwnerDeletion": True}
    containers = [{"name": "main", "image": IMAGE}, {"name": "wait", "image": "argoexec:v3"}]
    return {"metadata": {"name": "launcher", "ownerReferences": [owner]}, "spec": {"containers": containers}}


def pods_of(job, runtime=RUNTIME):
    """The pods that the Trainer makes of ``job``: the runtime's, with what the job puts in its place."""
    name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
    (group,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    made = []
    for rank in range(trainer["numNodes"]):
        pod = copy.deepcopy(group["template"]["spec"]["template"])
        (container,) = pod["spec"]["containers"]
        container |= {"image": trainer["image"], "command": trainer["command"]}
        container["resources"] = trainer["resourcesPerNode"]
        container["env"] += [
            {"name": "PET_NNODES", "value": str(trainer["numNodes"])},
            {"name": "PET_NPROC_PER_NODE", "value": "auto"},
            {"name": "PET_NODE_RANK", "value": str(rank)},
            {"name": "PET_MASTER_ADDR", "value": f"{name}-node-0-0.{name}"},
            {"name": "PET_MASTER_PORT", "value": "29500"},
        ]
        for patch in job["spec"].get("runtimePatches", []):
            (part,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
            pod["spec"] |= part["template"]["spec"]["template"]["spec"]
        pod["metadata"]["name"] = f"{name}-node-0-{rank}"
        pod["metadata"]["labels"] |= {
            "jobset.sigs.k8s.io/jobset-name": name,
            "jobset.sigs.k8s.io/replicatedjob-name": "node",
            "batch.kubernetes.io/job-completion-index": str(rank),
        }
        made.append({"apiVersion": "v1", "kind": "Pod", **pod})
    return made


class Cluster(http.server.ThreadingHTTPServer):
    """``then`` is called with the job at every look at it; it may end it (:meth:`end`) and add to ``logs``."""

    def __init__(self, then=lambda cluster, job: None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.then = then
        self.pod, self.runtimes, self.jobs, self.pods, self.logs = launcher_pod(), {"srpo-train": RUNTIME}, {}, {}, {}
        self.requests = []  # (method, path, query, body)
        self.answers = {}  # (method, path) -> (status, body), in place of the usual ones
        # Pods of a removed job are still there for so many looks, and until this says that they have ended.
        self.lingering, self.ended = 0, lambda: True

    @property
    def configuration(self):
        configuration = client.Configuration()
        configuration.host = f"http://127.0.0.1:{self.server_port}"
        return configuration

    def asked(self, method, what=""):
        """Bodies of the requests of a method to paths that hold ``what``."""
        return [body for asked, path, _, body in self.requests if asked == method and what in path]

    def add(self, job):
        """Keep a job, and make its pods."""
        name = job["metadata"]["name"]
        kept = copy.deepcopy(job)
        kept["metadata"] |= {"namespace": "team", "creationTimestamp": BORN, "uid": "j-1"}
        self.jobs[name] = kept
        self.pods[name] = [pod | {"status": {"phase": "Running"}} for pod in pods_of(job)]
        self.logs |= {pod["metadata"]["name"]: "" for pod in self.pods[name]}
        return kept

    def end(self, kind, reason="", message=""):
        """Set the one job's condition."""
        (job,) = self.jobs.values()
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        job["status"] = {"conditions": [condition | {"lastTransitionTime": BORN}]}

    def answer(self, method, path, query, body):
        """(status, content) as the real API gives them."""
        if (method, path) in self.answers:
            return self.answers[method, path]
        name = path.rpartition("/")[2]
        if path == f"{CORE}/pods/launcher":
            return 200, self.pod
        if path == f"{CORE}/pods":
            wanted = query["labelSelector"][0].partition(",")[0].partition("=")[2]
            if wanted not in self.jobs and self.pods.get(wanted):
                self.lingering -= 1
                if self.lingering < 0 and self.ended():
                    self.pods.pop(wanted)
            return 200, {"kind": "PodList", "items": self.pods.get(wanted, [])}
        if path.startswith(f"{CORE}/pods/") and name == "log":
            return 200, self.logs[path.split("/")[-2]]
        if path.startswith(f"{TRAINER}/trainingruntimes/") and name in self.runtimes:
            return 200, self.runtimes[name]
        if path.startswith("/apis/trainer.kubeflow.org/v1alpha1/clustertrainingruntimes") or "kubeflow-system" in path:
            return 403, {"message": "a role of a namespace says nothing of that"}
        if path == f"{TRAINER}/trainjobs" and method == "POST":
            if body["metadata"]["name"] in self.jobs:
                return 409, {"message": "it exists"}
            return 201, self.add(body)
        if path.startswith(f"{TRAINER}/trainjobs/") and name in self.jobs:
            job = self.jobs[name]
            if method == "PATCH":
                job["metadata"] |= body["metadata"]
            elif method == "DELETE":
                self.jobs.pop(name)
                self.then(self, None)
            else:
                self.then(self, job)
            return 200, job
        return 404, {"message": f"no {path}"}


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        query = urllib.parse.parse_qs(url.query)
        self.server.requests.append((self.command, url.path, query, body))
        status, content = self.server.answer(self.command, url.path, query, body)
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_DELETE = do_PATCH = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


class Processes:
    """``then`` of a cluster whose pods are processes of this machine: what the job's command does, it does for real."""

    def __init__(self, folder, port):
        self.folder, self.port, self.running, self.lock = folder, port, {}, threading.Lock()

    def __call__(self, cluster, job):
        with self.lock:
            if job is None:  # it was removed
                for process in self.running.values():
                    process.terminate()
                return
            for pod in cluster.pods[job["metadata"]["name"]]:
                name = pod["metadata"]["name"]
                if name not in self.running:
                    self.running[name] = self.start(name, pod["spec"]["containers"][0])
                cluster.logs[name] = (self.folder / name).read_text()
            codes = [process.poll() for process in self.running.values()]
            if any(codes):
                cluster.end("Failed", "JobsFailed", "a job of the JobSet failed")
            elif None not in codes:
                cluster.end("Complete", "AllJobsCompleted", "all jobs of the JobSet completed")

    def ended(self):
        """Whether no process runs any more; those that have ended make room for others."""
        with self.lock:
            if any(process.poll() is None for process in self.running.values()):
                return False
            self.running.clear()
            return True

    def start(self, name, container):
        """The process of one pod."""
        here = {"PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": str(self.port)}
        told = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        command = [sys.executable if word == "python" else word for word in container["command"]]
        environment = os.environ | told | here | {"OMP_NUM_THREADS": "1"}
        with (self.folder / name).open("w") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
