"""One Kubeflow TrainJob: made and read by Kubeflow's client, and what that cannot do is done by Kubernetes' own."""

import json
import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.execution.again import killed_by
from srpo.core.storage.files import write_text
from srpo.train.config import Config
from srpo.train.launcher import ERROR, HEARTBEAT, RESULT, SHUTDOWN, TERMINATED, RanksError, RanksKilled, node_command

GROUP, VERSION, JOBS = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
QUEUE = "kueue.x-k8s.io/queue-name"
LABELS = {"app.kubernetes.io/name": "srpo", "app.kubernetes.io/part-of": "srpo", "app.kubernetes.io/component": "train"}
STEP = "node-0"  # the pod of rank 0, whose log is passed on

POLL = 5.0  # seconds between two looks
MISSES = 60  # looks in a row that may fail: a job outlives a short absence of the API


def job_name(state: Path) -> str:
    """The name of the TrainJob of the result whose state folder this is; a host's name has 63 characters at most."""
    return f"srpo-train-{re.sub('[^a-z0-9]', '', state.name.lower())[:16]}"


class TrainJob:
    """The TrainJob called ``name`` in ``namespace``; ``configuration`` is that of Kubernetes' client.

    ``state`` is the folder of the run on the shared volume.
    """

    def __init__(self, configuration: Any, namespace: str, name: str, state: Path) -> None:
        from kubeflow.trainer import KubernetesBackendConfig, TrainerClient
        from kubernetes import client

        # It would warn that it may not read the version in the namespace of the controller.
        logging.getLogger("kubeflow.trainer.backends.kubernetes.backend").setLevel(logging.ERROR)
        backend = KubernetesBackendConfig(namespace=namespace, client_configuration=configuration)
        self.trainer = TrainerClient(backend)
        api = client.ApiClient(configuration)
        self.core, self.custom = client.CoreV1Api(api), client.CustomObjectsApi(api)
        self.namespace, self.name, self.state = namespace, name, state
        self.looks, self.complaint = 0, ""
        self.printed: dict[str, int] = {}  # lines of each pod's log that were passed on

    def own_pod(self, name: str) -> Any:
        """The pod of this process: it says which image this is, and which workflow it belongs to."""
        return self.core.read_namespaced_pod(name, self.namespace)

    def runtime(self, config: Config) -> Any:
        """The TrainingRuntime that the job is made of; raises InputError where there is none that we may see."""
        try:
            return self.trainer.get_runtime(config.runtime)
        except RuntimeError as error:
            if status_of(error) in (403, 404):
                raise InputError(
                    f"train.runtime is {config.runtime!r}: it must be a TrainingRuntime of the namespace "
                    f"{self.namespace!r} (kubectl apply --kustomize manifests/several-nodes)"
                ) from None
            raise

    def find_or_create(self, config: Config, pod: Any, runtime: Any) -> None:
        """Until there is a job that runs or has ended well; one that failed, or is going, makes room first."""
        waited = False
        while True:
            job = self.read()
            if job is None and not self.pods():
                if self.create(config, pod, runtime):
                    self.say(f"started: {config.nodes} nodes, {config.processes // config.nodes} ranks each")
                    return
            elif job is not None and "deletionTimestamp" not in job["metadata"]:
                if ending(job)[0] != "Failed":
                    self.own(pod)
                    self.say("found: an earlier try of this task has started it")
                    return
                self.delete()
            if not waited:
                self.say("waits until the pods of an earlier try are gone")
                waited = True
            self.pause()

    def create(self, config: Config, pod: Any, runtime: Any) -> bool:
        """Create the job, of the image that this process runs in; False if somebody else just did."""
        from kubeflow.trainer import CustomTrainerContainer, options

        for leftover in (RESULT, ERROR):
            (self.state / leftover).unlink(missing_ok=True)
        (image,) = {one.image for one in pod.spec.containers if one.name == "main"}  # Argo's name for what it runs
        ranks = config.processes // config.nodes
        gpus = {config.gpu_type: str(ranks)} if config.device == "cuda" else {}
        queue = {QUEUE: config.queue} if config.queue else {}
        try:
            self.trainer.train(
                runtime=runtime,
                trainer=CustomTrainerContainer(
                    image=image,
                    num_nodes=config.nodes,
                    resources_per_node={"cpu": config.node_cpu, "memory": config.node_memory, **gpus},
                ),
                options=[
                    options.Name(self.name),
                    options.Labels(LABELS | queue),
                    options.TrainerCommand(node_command(ranks, SHUTDOWN, self.state / "job.json")),
                    options.ActiveDeadlineSeconds(config.deadline),
                    *placed(config),
                ],
            )
        except RuntimeError as error:
            if status_of(error) == 409:
                return False
            raise
        self.own(pod)
        return True

    def own(self, pod: Any) -> None:
        """Let the job go when the workflow that ``pod`` belongs to goes; the client itself cannot say so."""
        owners = [one for one in pod.metadata.owner_references or [] if one.kind == "Workflow"]
        # Without blockOwnerDeletion, which would need rights over the workflow.
        named = [{"apiVersion": one.api_version, "kind": one.kind, "name": one.name, "uid": one.uid} for one in owners]
        self.custom.patch_namespaced_custom_object(*self.where(), self.name, {"metadata": {"ownerReferences": named}})

    def follow(self) -> bool:
        """Pass the log on until the job has ended: True when it is complete, False when a node was taken from it.

        Raises:
            RanksError: it failed or is gone (RanksKilled: since one of its pods was killed).
            RuntimeError: it cannot be seen any more.
        """
        told, missed = "", 0
        while True:
            try:
                job = self.read()
                missed = 0
            except Exception as error:
                missed += 1
                if missed >= MISSES:
                    raise RuntimeError(f"TrainJob {self.name} cannot be seen any more: {error}") from None
                self.pause()
                continue
            if job is None:
                raise RanksError(f"TrainJob {self.name} was deleted by somebody else")
            self.pass_on()
            kind, said = ending(job)
            if kind == "Complete":
                return True
            if kind == "Failed":
                if self.preempted():
                    self.say("lost a node that was taken away; a new one goes on from the last checkpoint")
                    return False
                if reason := self.killed():
                    raise RanksKilled(f"a pod of TrainJob {self.name} was {reason}")
                raise RanksError(f"TrainJob {self.name} failed: {said}")
            if kind and kind != told:
                self.say(f"{kind.lower()}: {said}")
                told = kind
            self.pause()

    def pass_on(self) -> None:
        """Print what is new in the log of rank 0's pod; a log that cannot be read now is read next time."""
        try:
            for step in self.trainer.get_job(self.name).steps:
                if step.name == STEP and step.status != "Pending":
                    lines = self.log(step.pod_name)
                    before = self.printed.get(step.pod_name, 0)
                    for line in lines[before if before <= len(lines) else 0 :]:  # fewer: the node began another file
                        print(line, flush=True)
                    self.printed[step.pod_name] = len(lines)
            self.complaint = ""
        except Exception as error:  # of either client, or of what lies below them
            if said(error) != self.complaint:
                self.complaint = said(error)
                self.say(f"runs on, but its log cannot be read: {self.complaint}")

    def log(self, pod: str) -> list[str]:
        """The whole lines of a pod's log as they are: the client makes another text of one line of JSON."""
        answer = self.core.read_namespaced_pod_log(pod, self.namespace, container="node", _preload_content=False)
        return list(answer.data.decode("utf-8", "replace").split("\n")[:-1])

    def preempted(self) -> bool:
        """Whether pods were taken from it: the ranks were told to end, and said so; or Kubernetes says so of a pod.

        That is preemption, eviction, a node that is drained or gone.
        """
        error = self.state / ERROR
        if error.is_file() and error.read_text(encoding="utf-8").startswith("Interrupted: "):
            return True
        found = [condition for pod in self.pods() for condition in pod.status.conditions or []]
        return any(one.type == "DisruptionTarget" and one.status == "True" for one in found)

    def killed(self) -> str:
        """What ended the first pod that a signal ended (for its memory, as a rule); nothing where none did."""
        for pod in self.pods():
            for container in pod.status.container_statuses or []:
                ended = container.state.terminated if container.state else None
                if ended is not None and ended.reason == "OOMKilled":
                    return "killed for its memory (OOMKilled)"
                if ended is not None and ended.exit_code > 128 and ended.exit_code != TERMINATED:
                    return killed_by(ended.exit_code - 128)
        return ""

    def read(self) -> Mapping[str, Any] | None:
        """The job as it stands; None where there is none."""
        from kubernetes.client import ApiException

        try:
            return dict(self.custom.get_namespaced_custom_object(*self.where(), self.name))
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def pods(self) -> list[Any]:
        """The pods of the job, or of one of the same name that was removed."""
        selector = f"jobset.sigs.k8s.io/jobset-name={self.name}"
        return list(self.core.list_namespaced_pod(self.namespace, label_selector=selector).items)

    def delete(self) -> None:
        """Remove the job; what stands in the way is said, and is no failure of the training.

        Kubeflow's client would remove the job at once and its pods behind it. In the foreground the job is seen, as one
        that is going, until its last pod has gone.
        """
        try:
            self.custom.delete_namespaced_custom_object(*self.where(), self.name, propagation_policy="Foreground")
        except Exception as error:
            if status_of(error) != 404:
                self.say(f"could not be deleted ({said(error)}): kubectl delete trainjob {self.name}")

    def pause(self) -> None:
        """Wait a little, and let the ranks see that somebody waits for them."""
        self.looks += 1
        write_text(self.state / HEARTBEAT, f"{time.time()} {self.looks}")
        time.sleep(POLL)

    def where(self) -> tuple[str, str, str, str]:
        """What the API calls the place of the job."""
        return GROUP, VERSION, self.namespace, JOBS

    def say(self, what: str) -> None:
        """A line in our own log."""
        print(f"srpo: train: TrainJob {self.name} {what}", flush=True)


def ending(job: Mapping[str, Any]) -> tuple[str, str]:
    """``Complete``, ``Failed``, ``Suspended`` or nothing yet, and the controller's own words."""
    conditions = job.get("status", {}).get("conditions", [])
    held = {one["type"]: one for one in conditions if one["status"] == "True"}
    for kind in ("Complete", "Failed", "Suspended"):
        if kind in held:
            return kind, ", ".join(filter(None, (held[kind].get("reason"), held[kind].get("message"))))
    return "", ""


def placed(config: Config) -> list[Any]:
    """The client's option that says which nodes the pods may stand on; none where everything may."""
    from kubeflow.trainer import options

    if not (config.node_selector or config.tolerations):
        return []
    pod = options.PodSpecPatch(
        node_selector=dict(config.node_selector) or None,
        tolerations=[{key: whole(value) for key, value in one.items()} for one in config.tolerations] or None,
    )
    template = options.JobTemplatePatch(spec=options.JobSpecPatch(template=options.PodTemplatePatch(spec=pod)))
    jobs = options.JobSetSpecPatch(replicated_jobs=[options.ReplicatedJobPatch(name="node", template=template)])
    spec = options.TrainingRuntimeSpecPatch(template=options.JobSetTemplatePatch(spec=jobs))
    return [options.RuntimePatch(training_runtime_spec=spec)]


def whole(value: Any) -> Any:
    """Kubeflow Pipelines passes every number as a double; Kubernetes takes none for seconds."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def status_of(error: BaseException) -> int | None:
    """The status with which the API refused, below what Kubeflow's client made of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(status := getattr(cause, "status", None), int):
            return status
        cause = cause.__cause__
    return None


def said(error: BaseException) -> str:
    """What the API itself said, in one line."""
    while error.__cause__ is not None and not hasattr(error, "reason"):
        error = error.__cause__
    try:
        return str(json.loads(getattr(error, "body", "") or "")["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(str(getattr(error, "reason", error)).split())
