"""Several nodes: the real TrainerClient against a server that plays a cluster, down to ranks that really train."""

import dataclasses
import itertools
import signal
import subprocess
import sys
import threading

import pytest
import trainer_server
import yaml
from kubeflow_trainer_api import models
from trainer_server import BORN, IMAGE, TRAINER, WORKFLOW

from srpo.core.contracts.errors import InputError
from srpo.train.config import Config
from srpo.train.run import run_ranks

KEY = "a1" * 32
NAME = f"srpo-train-{KEY[:16]}"
RANK_0 = f"{NAME}-node-0-0"
CONFIG = Config(
    processes=16,
    nodes=2,
    device="cuda",
    queue="research",
    deadline=3600,
    node_selector={"pool": "h100"},
    # As it comes through Kubeflow Pipelines: every number is a double.
    tolerations=[{"key": "spot", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300.0}],
)


@pytest.fixture
def state(tmp_path):
    folder = tmp_path / "state" / "train" / KEY
    folder.mkdir(parents=True)
    return folder


def looks(*steps):
    """What becomes of a job: at each look at it one of ``steps`` more, each a function of the cluster."""
    waiting = list(steps)

    def then(cluster, job):
        if job is not None and waiting:
            waiting.pop(0)(cluster)

    return then


def wrote(*lines):
    return lambda cluster: cluster.logs.__setitem__(RANK_0, cluster.logs[RANK_0] + "".join(f"{one}\n" for one in lines))


def ended(kind, *words):
    return lambda cluster: cluster.end(kind, *words)


def well(state):
    """The job ends well."""

    def end(cluster):
        (state / "result.json").write_text("{}")
        cluster.end("Complete")

    return end


def earlier_job(cluster):
    """A job of the same name that an earlier launcher left."""
    return cluster.add({"metadata": {"name": NAME}, "spec": {"runtimeRef": {"name": "srpo-train"}, "trainer": TRAINED}})


TRAINED = {"numNodes": 2, "image": IMAGE, "command": ["true"], "resourcesPerNode": {"limits": {"cpu": "1"}}}


def test_the_job_is_what_the_run_asks_for(cluster, state):
    cluster.then = looks(well(state))
    run_ranks(CONFIG, state)
    (job,) = cluster.asked("POST")
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    assert job["metadata"]["name"] == NAME
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert job["metadata"]["labels"]["app.kubernetes.io/part-of"] == "srpo"
    spec = job["spec"]
    assert spec["runtimeRef"] == {"kind": "TrainingRuntime", "name": "srpo-train"}
    assert spec["activeDeadlineSeconds"] == 3600
    wanted = {"cpu": "16", "memory": "128Gi", "nvidia.com/gpu": "8"}
    assert spec["trainer"] == {
        "image": IMAGE,  # that of the launcher itself
        "numNodes": 2,
        "resourcesPerNode": {"requests": wanted, "limits": wanted},
        "command": [
            *("python", "-m", "srpo.train.ranks", "--nproc-per-node", "8", "--shutdown-timeout", "3600"),
            *("-m", "srpo.train", "--job", str(state / "job.json")),
        ],
    }
    for pod in trainer_server.pods_of(job):
        assert pod["spec"]["nodeSelector"] == {"pool": "h100"}
        (toleration,) = pod["spec"]["tolerations"]
        assert toleration == dict(CONFIG.tolerations[0]) | {"tolerationSeconds": 300}
        assert type(toleration["tolerationSeconds"]) is int


def test_the_job_has_fields_of_the_published_schema_only(cluster, state):
    """Kubeflow's models know every field of the API, and drop what is none."""
    cluster.then = looks(well(state))
    run_ranks(CONFIG, state)
    (job,) = cluster.asked("POST")
    assert models.TrainerV1alpha1TrainJob.from_dict(job).to_dict() == job
    wrong = job | {"spec": job["spec"] | {"podTemplateOverrides": []}}  # what it was called before Trainer 2.2
    assert models.TrainerV1alpha1TrainJob.from_dict(wrong).to_dict() != wrong


def test_the_roles_allow_what_is_asked_and_nothing_more(cluster, state):
    cluster.then = looks(well(state))
    run_ranks(CONFIG, state)
    used = set()
    for method, path, _, _ in cluster.requests:
        if "/namespaces/team/" in path:
            group = "trainer.kubeflow.org" if path.startswith("/apis") else ""
            resource, _, rest = path.partition("/namespaces/team/")[2].partition("/")
            verb = {"GET": "get" if rest else "list", "POST": "create"}.get(method, method.lower())
            used.add((group, f"{resource}/log" if rest.endswith("/log") else resource, verb))

    def granted(file):
        for rule in yaml.safe_load((trainer_server.ROOT / "manifests" / file).read_text())["rules"]:
            yield from itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])

    assert used == {*granted("several-nodes/role.yaml"), ("", "pods", "get")}
    assert ("", "pods", "get") in set(granted("base/role.yaml"))


def test_gpus_are_asked_for_by_the_name_of_the_run(cluster, state):
    cluster.then = looks(well(state))
    run_ranks(dataclasses.replace(CONFIG, gpu_type="nvidia.com/mig-3g.40gb"), state)
    (job,) = cluster.asked("POST")
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"]["nvidia.com/mig-3g.40gb"] == "8"


def test_without_a_queue_and_gpus_the_job_asks_for_none(cluster, state):
    cluster.then = looks(well(state))
    run_ranks(Config(processes=4, nodes=2, node_cpu="2", node_memory="8Gi"), state)
    (job,) = cluster.asked("POST")
    assert "kueue.x-k8s.io/queue-name" not in job["metadata"]["labels"]
    assert job["spec"]["trainer"]["resourcesPerNode"]["limits"] == {"cpu": "2", "memory": "8Gi"}
    assert "runtimePatches" not in job["spec"]


def test_the_job_belongs_to_the_workflow_of_the_run(cluster, state):
    cluster.then = looks(well(state))
    run_ranks(CONFIG, state)
    # No blockOwnerDeletion: that would need a right over workflows.
    assert cluster.asked("PATCH") == [{"metadata": {"ownerReferences": [WORKFLOW]}}]


def test_every_line_of_the_log_is_passed_on_once(cluster, state, capsys):
    cluster.then = looks(wrote("one"), wrote(), wrote("two", "three"), wrote("four"), well(state))
    run_ranks(CONFIG, state)
    shown = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("srpo:")]
    assert shown == ["one", "two", "three", "four"]


def test_a_complete_job_is_removed(cluster, state):
    cluster.then = looks(well(state))
    run_ranks(CONFIG, state)
    assert cluster.jobs == {}
    # In the foreground: a job is seen until its last pod has gone, so that no other is started beside it.
    assert cluster.requests[-1][:3] == (
        "DELETE",
        f"{TRAINER}/trainjobs/{NAME}",
        {"propagationPolicy": ["Foreground"]},
    )


def test_a_log_that_cannot_be_read_is_told_once_and_read_later(cluster, state, capsys):
    path = ("GET", f"{trainer_server.CORE}/pods/{RANK_0}/log")
    cluster.answers[path] = (403, {"message": "no log for you"})
    cluster.then = looks(*[wrote()] * 6, lambda cluster: cluster.answers.clear(), wrote("one"), well(state))
    run_ranks(CONFIG, state)
    shown = capsys.readouterr().out.splitlines()
    assert len([line for line in shown if "its log cannot be read: no log for you" in line]) == 1
    assert "one" in shown


@pytest.mark.parametrize(
    ("left", "raised", "said"),
    [
        ("InputError: train.resolution is 30", InputError, r"^train\.resolution is 30"),
        ("OutOfMemoryError: CUDA", RuntimeError, "OutOfMemoryError: CUDA"),
        ("", RuntimeError, "DeadlineExceeded, it ran too long"),
    ],
)
def test_a_failure_is_passed_on_and_the_job_removed(cluster, state, left, raised, said):
    def fail(cluster):
        if left:
            (state / "error.txt").write_text(left)
        cluster.end("Failed", "DeadlineExceeded", "it ran too long")

    (state / "error.txt").write_text("InputError: of the try before")
    cluster.then = looks(wrote("one"), fail)
    with pytest.raises(raised, match=said):
        run_ranks(CONFIG, state)
    assert cluster.jobs == {}


def taken(cluster, state):
    """Kubernetes takes a node."""
    (pods,) = cluster.pods.values()
    pods[1]["status"]["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "Preempted"}]


def told(cluster, state):
    """The ranks hear SIGTERM, and save."""
    (state / "error.txt").write_text("Interrupted: by SIGTERM")


@pytest.mark.parametrize("away", [taken, told])
def test_a_node_that_was_taken_away_costs_a_new_job_and_not_the_task(cluster, state, away):
    """Twice. Whether a task that fails is tried again is the choice of a cluster's Argo."""

    def then(server, job):
        if job and "status" not in job:
            if len(server.asked("POST")) == 3:
                well(state)(server)
            else:
                away(server, state)
                server.end("Failed", "JobsFailed")

    cluster.then = then
    run_ranks(CONFIG, state)
    assert len(cluster.asked("POST")) == 3
    assert cluster.jobs == {}
    assert not (state / "error.txt").exists()


def test_a_launcher_that_is_started_again_goes_on_with_the_job(cluster, state, capsys):
    earlier_job(cluster)
    (state / "error.txt").write_text("InputError: what the running ranks have just said")
    cluster.then = looks(wrote("one"), well(state))
    run_ranks(CONFIG, state)
    assert cluster.asked("POST") == []
    assert cluster.asked("PATCH") == [{"metadata": {"ownerReferences": [WORKFLOW]}}]  # it is this run's now
    assert (state / "error.txt").exists()
    assert "one" in capsys.readouterr().out.splitlines()
    assert cluster.jobs == {}


def test_a_job_that_has_failed_makes_room_and_its_pods_are_waited_for(cluster, state):
    """Two sets of ranks must never write to one folder."""
    earlier_job(cluster)
    cluster.end("Failed")
    cluster.lingering = 3

    cluster.then = lambda server, job: well(state)(server) if server.asked("POST") and job else None
    run_ranks(CONFIG, state)
    assert [path for method, path, _, _ in cluster.requests if method == "DELETE"] == [
        f"{TRAINER}/trainjobs/{NAME}"
    ] * 2
    asked = [(method, path.rpartition("/")[2]) for method, path, _, _ in cluster.requests]
    created = asked.index(("POST", "trainjobs"))
    assert asked[asked.index(("DELETE", NAME)) : created].count(("GET", "pods")) == 4


def test_a_job_that_is_being_removed_is_waited_for(cluster, state):
    earlier_job(cluster)["metadata"]["deletionTimestamp"] = BORN

    def gone(server, job):
        if server.asked("POST"):
            well(state)(server)
        elif len(server.requests) > 8:
            server.jobs.clear()
            server.pods.clear()

    cluster.then = gone
    run_ranks(CONFIG, state)
    assert len(cluster.asked("POST")) == 1


def test_a_suspended_job_waits_and_is_followed_into_its_new_pods(cluster, state, capsys):
    """What Kueue does to make room for somebody else."""

    def again(cluster):
        (job,), (pods,) = cluster.jobs.values(), cluster.pods.values()
        job["status"] = {"conditions": [{"type": "Suspended", "status": "False", "lastTransitionTime": BORN}]}
        pods[0]["metadata"]["name"] = f"{RANK_0}-b"
        cluster.logs[f"{RANK_0}-b"] = "two\n"

    suspended = ended("Suspended", "Suspended", "TrainJob is suspended")
    cluster.then = looks(wrote("one"), *[wrote()] * 3, suspended, *[wrote()] * 6, again, *[wrote()] * 3, well(state))
    run_ranks(CONFIG, state)
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if "suspended" in line] == [
        f"srpo: train: TrainJob {NAME} suspended: Suspended, TrainJob is suspended"
    ]
    assert [line for line in shown if not line.startswith("srpo:")] == ["one", "two"]


def test_a_job_that_somebody_deletes_is_a_failure(cluster, state):
    cluster.then = looks(lambda cluster: cluster.jobs.clear())
    with pytest.raises(RuntimeError, match="deleted by somebody else"):
        run_ranks(CONFIG, state)


def test_an_api_that_is_away_for_a_moment_costs_nothing(cluster, state):
    path = ("GET", f"{TRAINER}/trainjobs/{NAME}")

    def away(cluster):
        cluster.answers[path] = (503, {"message": "later"})
        threading.Timer(0.2, cluster.answers.clear).start()

    cluster.then = looks(away, well(state))
    run_ranks(CONFIG, state)
    assert cluster.jobs == {}


@pytest.mark.parametrize(
    ("method", "path", "status", "said"),
    [
        ("GET", f"{TRAINER}/trainingruntimes/srpo-train", 404, r"train\.runtime is 'srpo-train': it must be"),
        ("POST", f"{TRAINER}/trainjobs", 403, "must have the role of manifests/several-nodes .*not for you"),
        ("PATCH", f"{TRAINER}/trainjobs/{NAME}", 403, "must have the role of manifests/several-nodes .*not for you"),
        ("GET", f"{TRAINER}/trainjobs/{NAME}", 403, "must have the role of manifests/several-nodes .*not for you"),
    ],
)
def test_what_the_namespace_lacks_is_bad_input(cluster, state, method, path, status, said):
    cluster.answers[method, path] = (status, {"message": "not for you"})
    with pytest.raises(InputError, match=said):
        run_ranks(CONFIG, state)
    assert cluster.jobs == {}


def test_outside_of_a_cluster_it_is_bad_input(state):
    with pytest.raises(InputError, match="num_nodes above 1 starts pods on a cluster"):
        run_ranks(CONFIG, state)


def test_nodes_share_the_ranks_evenly():
    with pytest.raises(InputError, match="processes is 3: it must be a multiple of the 2 nodes"):
        Config(processes=3, nodes=2, batch_size=3)


LAUNCHER = """
import sys
from kubernetes.client import Configuration
from srpo.train import nodes, trainjob
from srpo.train.config import Config
from pathlib import Path
configuration = Configuration()
configuration.host = sys.argv[1]
nodes.this_cluster = lambda: nodes.Cluster(configuration, "team", "launcher")
trainjob.POLL = 0.05
nodes.train_on_nodes(Config(processes=2, nodes=2), Path(sys.argv[2]))
"""


def test_sigterm_removes_the_job(cluster, state):
    command = [sys.executable, "-c", LAUNCHER, cluster.configuration.host, str(state)]
    cluster.then = looks(wrote("one"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line == "one\n":
                process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert cluster.jobs == {}


def test_a_launcher_leaves_a_heartbeat(cluster, state):
    beats = set()

    def look(cluster, job):
        if (state / "heartbeat").exists():
            beats.add((state / "heartbeat").read_text())
        if len(beats) > 3:
            well(state)(cluster)

    cluster.then = look
    run_ranks(CONFIG, state)
    assert len(beats) > 3
