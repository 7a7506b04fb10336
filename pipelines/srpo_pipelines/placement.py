"""Where a stage's task runs: image, resources, volumes, secrets, retries and, for the GPU stages, the nodes."""

import dataclasses
from typing import Any

from kfp import dsl, kubernetes

from srpo.core.execution.stage import IMAGE_VARIABLE
from srpo_pipelines.resources import (
    CACHE,
    ENVIRONMENT,
    HOUR,
    LABELS,
    MOUNT,
    PODS,
    UNDISTURBED,
    USER,
    VARIABLES,
    VOLUME,
    images,
)


@dataclasses.dataclass(frozen=True)
class GpuNodes:
    """The pipeline parameters (or outputs of tasks) that say which nodes the GPU stages run on."""

    count: Any  # text: Kubeflow drops a limit that is a number; "0" asks for no GPU
    type: Any  # the resource that they are
    node_selector: Any
    tolerations: Any


def place(task: dsl.PipelineTask, stage: str, title: str, gpu: GpuNodes | None = None) -> dsl.PipelineTask:
    """Everything about the pod of ``stage``; ``gpu`` is given for the stages that compute on GPUs."""
    pod = PODS[stage]
    task.set_display_name(title).set_container_image(images()[pod.image])
    task.set_cpu_request(pod.cpu[0]).set_cpu_limit(pod.cpu[1])
    task.set_memory_request(pod.memory[0]).set_memory_limit(pod.memory[1])
    # Kubeflow's own cache knows nothing of a prompt file's bytes or of the code in the image: it would serve stale
    # results. Every stage finds its finished result by its own content key instead (srpo.core.execution.stage).
    task.set_caching_options(False)
    if pod.retries:
        # Not the longest wait: Argo counts it from the start of the first try, and ends all of them when it is over.
        whole = (pod.retries + 1) * pod.timeout + HOUR
        task.set_retry(pod.retries, backoff_duration="30s", backoff_factor=2.0, backoff_max_duration=f"{whole}s")
    kubernetes.set_timeout(task, pod.timeout)
    # Kubeflow itself drops all capabilities, refuses privilege escalation and sets the runtime's seccomp profile.
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    for name, value in {**LABELS, "app.kubernetes.io/component": stage.replace("_", "-")}.items():
        kubernetes.add_pod_label(task, name, value)
    for secret, variables in pod.secrets.items():
        kubernetes.use_secret_as_env(task, secret, variables, optional=True)
    task.set_env_variable(IMAGE_VARIABLE, images()[pod.image])  # no container knows its own image
    for name, value in pod.environment.items():
        task.set_env_variable(name, value)
    for name, field in pod.fields.items():
        kubernetes.use_field_path_as_env(task, name, field)
    kubernetes.use_config_map_as_env(task, ENVIRONMENT, VARIABLES, optional=True)
    kubernetes.empty_dir_mount(task, "cache", CACHE)
    if pod.volume:
        kubernetes.mount_pvc(task, pvc_name=VOLUME, mount_path=MOUNT)
    if pod.shared_memory:
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit=pod.shared_memory)
    if gpu is not None:
        task.set_accelerator_type(gpu.type).set_accelerator_limit(gpu.count)
        task.register_pipeline_channels([gpu.type, gpu.count])  # else the compiler misses them inside the loop
        kubernetes.add_node_selector_json(task, gpu.node_selector)
        kubernetes.add_toleration_json(task, gpu.tolerations)
        for name, value in UNDISTURBED.items():
            kubernetes.add_pod_annotation(task, name, value)
    return task
