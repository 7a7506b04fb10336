"""What each stage's pod asks for. CPU and memory are fixed when the package is compiled; GPUs are a run's parameter."""

import dataclasses
from functools import cache
from importlib import resources

import yaml

GPU_TYPE = "nvidia.com/gpu"
VOLUME = "srpo-workspace"  # the PersistentVolumeClaim that all stages of a run share
MOUNT = "/workspace"


@dataclasses.dataclass(frozen=True)
class Pod:
    """Requests are what a small model needs, so that the embedded run fits a small cluster; limits suit a large one."""

    image: str = "cpu"
    cpu: tuple[str, str] = ("500m", "4")  # request, limit
    memory: tuple[str, str] = ("1Gi", "8Gi")
    volume: bool = True  # whether it sees the shared workspace
    shared_memory: str = ""  # size of /dev/shm, in memory; a container's own 64 MB are too small for NCCL
    retries: int = 0  # with backoff; for the long stages, which go on from their last checkpoint


PODS: dict[str, Pod] = {
    "configure": Pod(cpu=("100m", "1"), memory=("256Mi", "1Gi"), volume=False),
    "list_shards": Pod(cpu=("100m", "1"), memory=("256Mi", "1Gi"), volume=False),
    "prepare_prompts": Pod(),
    "fetch_base": Pod(memory=("1Gi", "16Gi")),
    "cache_rewards": Pod(image="gpu", cpu=("1", "8"), memory=("4Gi", "64Gi")),
    "encode_prompts": Pod(image="gpu", cpu=("1", "8"), memory=("4Gi", "64Gi")),
    "train": Pod(image="gpu", cpu=("2", "64"), memory=("4Gi", "512Gi"), shared_memory="8Gi", retries=3),
    "sample": Pod(image="gpu", cpu=("1", "8"), memory=("4Gi", "64Gi"), retries=3),
    "evaluate": Pod(memory=("1Gi", "16Gi")),
    "export": Pod(memory=("1Gi", "16Gi")),
}


@cache
def images() -> dict[str, str]:
    """The image of each kind (``cpu``, ``gpu``)."""
    return dict(yaml.safe_load(resources.files("srpo_pipelines").joinpath("images.yaml").read_text(encoding="utf-8")))
