"""Several nodes: the ranks of a run in the pods of a Kubeflow TrainJob, which this process starts, follows and removes.

This process holds no GPU. The job's name comes from the content key of the result, so a launcher that is started again
finds the job that the one before it started, and goes on with it; two launchers at once take turns (the stage is
``alone``). While it lives it writes to a file that the ranks look at: a launcher that was killed without a word
(Kubeflow's Terminate) leaves no job that trains on for nobody. A node that is taken away costs a new job, not the task:
whether a task is tried again is the cluster's choice.
"""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import MANIFEST, read_manifest
from srpo.train import trainjob
from srpo.train.config import Config
from srpo.train.launcher import RESULT, TERMINATED
from srpo.train.trainjob import TrainJob, job_name, said, status_of

POD, NAMESPACE = "SRPO_POD", "SRPO_NAMESPACE"  # variables that tell a pod which one it is
LATE = 24  # looks for the result of a job that is complete


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where this process runs, as its own pod sees it."""

    configuration: Any  # kubernetes.client.Configuration
    namespace: str
    pod: str


def this_cluster() -> Cluster:
    """The cluster that this pod is in, by its service account.

    Raises:
        InputError: this process is in no pod of a pipeline.
    """
    from kubernetes import client, config

    try:
        configuration = client.Configuration()
        config.load_incluster_config(client_configuration=configuration)
        configuration.proxy = None  # the variables of a proxy are for what is outside of the cluster
        return Cluster(configuration, os.environ[NAMESPACE], os.environ[POD])
    except (config.ConfigException, KeyError):
        raise InputError(
            "num_nodes above 1 starts pods on a cluster, and this process is in none: it must be 1 here "
            "(srpo submit runs it on a cluster)"
        ) from None


def on_the_volume(artifact: Path, workspace: Path) -> Path:
    """Where the result that ``artifact`` is a copy of stands in ``workspace``, which the pods of all nodes see.

    Raises:
        InputError: it was made in another workspace, or removed.
    """
    made = read_manifest(artifact)
    place = workspace / "stages" / made["stage"] / made["key"] / made["artifact"]
    if not (place / MANIFEST).is_file():
        raise InputError(f"{place} is missing, and {artifact} is in this pod alone: run {made['stage']} again")
    return place


def train_on_nodes(config: Config, state: Path) -> None:
    """Start (or find) the TrainJob of ``state``, pass its log on, return when it is complete, and remove it.

    ``state`` holds job.json; after a success it holds the ranks' result.

    Raises:
        InputError: no cluster, no such runtime, or no right to what is needed here.
        SystemExit: 143 after SIGTERM.
        RanksError: the job failed; what its ranks have said of it lies in ``state``.
    """
    from kubernetes.client import ApiException

    cluster = this_cluster()
    job = TrainJob(cluster.configuration, cluster.namespace, job_name(state), state)
    with ended_by_sigterm():
        try:
            pod, runtime = job.own_pod(cluster.pod), job.runtime(config)
            try:
                job.find_or_create(config, pod, runtime)
                while not job.follow():
                    job.find_or_create(config, pod, runtime)
            finally:
                job.delete()
        except (ApiException, RuntimeError) as error:
            if status_of(error) == 403:
                raise InputError(
                    f"the service account of this pod may not do what several nodes need in {cluster.namespace!r}: "
                    f"it must have the role of manifests/several-nodes ({said(error)})"
                ) from None
            raise
    for _ in range(LATE):  # a shared volume may show a file of another node a moment later
        if (state / RESULT).is_file():
            return
        time.sleep(trainjob.POLL)
    raise RuntimeError(f"TrainJob {job.name} is complete, but its ranks left no {state / RESULT}")


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Meanwhile SIGTERM raises SystemExit, once: what is cleaned up then is not interrupted by another."""

    def end(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
