"""What each stage's pod asks for. CPU and memory are fixed when the package is compiled; GPUs are a run's parameter.

Secrets and config maps are named here and never read: Kubernetes puts their values into the pods. All are optional, so
that a run which needs none of them runs without.
"""

import dataclasses
from functools import cache
from importlib import resources

from srpo.core.execution import environment

VOLUME = "srpo-workspace"  # the PersistentVolumeClaim that all stages of a run share
MOUNT = "/workspace"
CACHE = "/cache"  # what libraries compile and download at run time; the rest of an image's file system is never written
USER = 10001  # as in images/Dockerfile
LABELS = {"app.kubernetes.io/name": "srpo", "app.kubernetes.io/part-of": "srpo"}

# Of pods on GPUs: what tidies up nodes (Karpenter, the cluster autoscaler) waits for them. A spot node may still go.
UNDISTURBED = {"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}

# name of the secret -> key in it -> environment variable, under a name of our own (srpo.core.execution.environment)
S3 = {"srpo-s3": {name: environment.own_name(name) for name in environment.KEYS}}
HUB = {"srpo-hub": {name: environment.own_name(name) for name in environment.HUB}}
TRACKERS = {"srpo-trackers": {name: environment.own_name(name) for name in environment.TRACKERS}}
ENVIRONMENT = "srpo-environment"  # the one config map for all pods, of what is no secret
VARIABLES = {name: environment.own_name(name) for name in environment.PLACES}

HOUR = 3600
TTL = 7 * 24 * HOUR  # how long a finished run's pods and workflow are kept for their logs; artifacts stay
# However it ended: a cluster's own setting for one of the ends would count before ours for any.
KEPT = {f"ttl_seconds_after_{end}": TTL for end in ("finished", "success", "failure")}


@dataclasses.dataclass(frozen=True)
class Pod:
    """Requests are what a small model needs, so that the embedded run fits a small cluster; limits suit a large one."""

    image: str = "cpu"
    cpu: tuple[str, str] = ("500m", "4")  # request, limit
    memory: tuple[str, str] = ("1Gi", "8Gi")
    volume: bool = True  # whether it sees the shared workspace
    shared_memory: str = ""  # size of /dev/shm, in memory; a container's own 64 MB are too small for NCCL
    retries: int = 2  # with backoff, as nodes come and go; the long stages go on from where they were
    timeout: int = 4 * HOUR  # of one try, in seconds: what hangs ends
    secrets: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    fields: dict[str, str] = dataclasses.field(default_factory=dict)  # variables that Kubernetes fills in


PODS: dict[str, Pod] = {
    "configure": Pod(cpu=("100m", "1"), memory=("256Mi", "1Gi"), volume=False, retries=0, timeout=HOUR // 4),
    "list_shards": Pod(cpu=("100m", "1"), memory=("256Mi", "1Gi"), volume=False, retries=0, timeout=HOUR // 4),
    "prepare_prompts": Pod(secrets=S3),
    # No GPU, but the image with torch, which reads the rewards that are released as `.pt`; and the one stage that may
    # ask a model hub, which the images forbid.
    "fetch_base": Pod(
        image="gpu",
        cpu=("500m", "4"),
        memory=("1Gi", "32Gi"),
        timeout=12 * HOUR,
        secrets=S3 | HUB,
        environment={"HF_HUB_OFFLINE": "0"},
    ),
    "cache_rewards": Pod(image="gpu", cpu=("1", "8"), memory=("4Gi", "64Gi")),
    "encode_prompts": Pod(image="gpu", cpu=("1", "8"), memory=("4Gi", "64Gi")),
    "train": Pod(
        image="gpu",
        cpu=("2", "64"),
        memory=("4Gi", "512Gi"),
        shared_memory="8Gi",
        retries=5,
        timeout=48 * HOUR,
        secrets=TRACKERS,
        fields={"SRPO_POD": "metadata.name", "SRPO_NAMESPACE": "metadata.namespace"},  # to start several nodes
    ),
    "sample": Pod(image="gpu", cpu=("1", "8"), memory=("4Gi", "64Gi"), retries=5, timeout=24 * HOUR, secrets=S3),
    "evaluate": Pod(memory=("1Gi", "16Gi")),
    "rating_page": Pod(memory=("1Gi", "16Gi")),
    "configure_promotion": Pod(cpu=("100m", "1"), memory=("256Mi", "1Gi"), volume=False, retries=0, timeout=HOUR // 4),
    "collect_ratings": Pod(secrets=S3),
    "decide": Pod(secrets=S3),
    "export": Pod(memory=("1Gi", "16Gi"), timeout=12 * HOUR, secrets=S3),
}


@cache
def images() -> dict[str, str]:
    """The image of each kind (``cpu``, ``gpu``), as installed; `srpo compile --images` puts others in their place."""
    import yaml

    return dict(yaml.safe_load(resources.files("srpo_pipelines").joinpath("images.yaml").read_text(encoding="utf-8")))
