"""What a cluster must have before the first run, looked at one by one: each finding is one line with its mend.

Nothing is changed on the cluster; in a bucket one small object is written and removed again.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from srpo.configure.parameters import Parameters, stage_configs
from srpo.core.contracts.errors import InputError
from srpo.core.storage import s3
from srpo_pipelines.artifact_store import check_launcher
from srpo_pipelines.findings import KUBEFLOW, Cluster, Finding, lacking, present, refusals_told
from srpo_pipelines.resources import ENVIRONMENT, PODS, VOLUME

APPLY = "kubectl apply --namespace {namespace} --kustomize manifests/base"
# What `srpo-runner` must be allowed (manifests/base/role.yaml): verb, group, resource, name.
RIGHTS = (
    ("create", "argoproj.io", "workflowtaskresults", ""),
    ("patch", "argoproj.io", "workflowtaskresults", ""),
    ("get", "", "configmaps", "kfp-launcher"),
    ("get", "", "pods", ""),
)
# What it must be allowed beside that to train on several nodes (manifests/several-nodes/role.yaml).
TRAINER = "trainer.kubeflow.org"
NODES_RIGHTS = (
    *((verb, TRAINER, "trainjobs", "") for verb in ("create", "get", "patch", "delete")),
    ("get", TRAINER, "trainingruntimes", ""),
    ("list", "", "pods", ""),
    ("get", "", "pods/log", ""),
)
KUEUE = "kueue.x-k8s.io"
ARGO = ("workflow-controller-configmap", KUBEFLOW)  # that of Kubeflow's Argo, and its usual namespace
UNTRIED = {"OnFailure": "vanishes with its node", "OnError": "fails"}  # Argo's policy -> what it does not try again


def examine(cluster: Cluster, parameters: Parameters, images: Mapping[str, str]) -> Iterator[Finding]:
    """All findings about the cluster, in the order in which they are mended."""
    always = (check_namespace, check_account, check_rights, check_volume, check_launcher, check_retries, check_secrets)
    for check in always:
        with refusals_told(check.__name__.removeprefix("check_")) as told:
            yield from check(cluster)
        yield from told
    if parameters.num_nodes > 1:
        with refusals_told("several nodes") as told:
            yield from check_several_nodes(cluster, parameters)
        yield from told
    with refusals_told("nodes") as told:
        yield from check_nodes(cluster, parameters)
    yield from told
    yield from check_images(images)


def check_namespace(cluster: Cluster) -> Iterator[Finding]:
    """The namespace is there, and what its Pod Security level makes of our pods."""
    found = present(cluster.core.read_namespace, cluster.namespace)
    if found is None:
        yield Finding("fail", "namespace", f"there is no {cluster.namespace}", "name another with --namespace")
        return
    level = (found.metadata.labels or {}).get("pod-security.kubernetes.io/enforce", "not enforced")
    yield Finding("ok", "namespace", f"{cluster.namespace} (Pod Security: {level})")


def check_account(cluster: Cluster) -> Iterator[Finding]:
    """The service account of the pods."""
    found = present(cluster.core.read_namespaced_service_account, cluster.service_account, cluster.namespace)
    apply = APPLY.format(namespace=cluster.namespace)
    if found is None:
        yield Finding("fail", "service account", f"there is no {cluster.service_account}", apply)
    else:
        pull = ", ".join(secret.name for secret in found.image_pull_secrets or []) or "none"
        yield Finding("ok", "service account", f"{cluster.service_account} (image pull secrets: {pull})")


def check_rights(cluster: Cluster) -> Iterator[Finding]:
    """What the service account may do: Kubeflow's launcher and Argo's executor need little, but that."""
    if missing := lacking(cluster, RIGHTS):
        mend = APPLY.format(namespace=cluster.namespace)
        yield Finding("fail", "rights", f"{cluster.service_account} may not {', '.join(missing)}", mend)
    else:
        yield Finding("ok", "rights", f"{cluster.service_account} may do what its pods need")


def check_several_nodes(cluster: Cluster, parameters: Parameters) -> Iterator[Finding]:
    """Kubeflow Trainer, the runtime that the training pods are made of, and the rights to start them."""
    from kubernetes import client

    custom = client.CustomObjectsApi(cluster.client)
    train = stage_configs(parameters)["train"]
    apply = APPLY.format(namespace=cluster.namespace).replace("base", "several-nodes")
    if present(custom.get_api_resources, TRAINER, "v1alpha1") is None:
        said = "Kubeflow Trainer is not installed"
        yield Finding("fail", "several nodes", said, "install Kubeflow Trainer v2, or num_nodes=1")
        return
    where = (TRAINER, "v1alpha1", cluster.namespace, "trainingruntimes")
    if present(custom.get_namespaced_custom_object, *where, train["runtime"]) is None:
        yield Finding("fail", "several nodes", f"there is no TrainingRuntime {train['runtime']}", apply)
    elif missing := lacking(cluster, NODES_RIGHTS):
        yield Finding("fail", "several nodes", f"{cluster.service_account} may not {', '.join(missing)}", apply)
    else:
        yield Finding("ok", "several nodes", f"Kubeflow Trainer with the runtime {train['runtime']}")
    if not train["queue"]:
        return
    known: Any = client.ApisApi(cluster.client).get_api_versions()
    groups = {group.name: group.preferred_version.version for group in known.groups}
    where = (KUEUE, groups.get(KUEUE, ""), cluster.namespace, "localqueues")
    if KUEUE not in groups:
        yield Finding("fail", "queue", "Kueue is not installed", "install Kueue, or leave train.queue out")
    elif present(custom.get_namespaced_custom_object, *where, train["queue"]) is None:
        mend = "kubectl get localqueues lists what there is (train.queue)"
        yield Finding("fail", "queue", f"there is no LocalQueue {train['queue']}", mend)
    else:
        yield Finding("ok", "queue", f"LocalQueue {train['queue']}")


def check_volume(cluster: Cluster) -> Iterator[Finding]:
    """The volume that all stages of a run share."""
    claim = present(cluster.core.read_namespaced_persistent_volume_claim, VOLUME, cluster.namespace)
    if claim is None:
        yield Finding("fail", "volume", f"there is no claim {VOLUME}", APPLY.format(namespace=cluster.namespace))
        return
    from kubernetes import client

    name = claim.spec.storage_class_name
    storage = present(client.StorageV1Api(cluster.client).read_storage_class, name) if name else None
    described = f"{VOLUME}: {claim.status.phase}, {', '.join(claim.spec.access_modes)}, class {name or 'default'}"
    if claim.status.phase == "Bound":
        shared = "ReadWriteMany" in claim.spec.access_modes
        state, mend = ("ok", "") if shared else ("note", "ReadWriteOnce: all pods of a run must fit on one node")
        yield Finding(state, "volume", described, mend)
    elif name and storage is None:
        yield Finding("fail", "volume", f"{described}, which does not exist", "name a storage class in an overlay")
    elif storage is not None and storage.volume_binding_mode == "WaitForFirstConsumer":
        yield Finding("ok", "volume", f"{described}; it is bound when the first pod wants it")
    else:
        yield Finding("fail", "volume", described, f"kubectl describe pvc {VOLUME} says why it is not bound")


def check_retries(cluster: Cluster) -> Iterator[Finding]:
    """Which ends of a pod the cluster's Argo tries again: the package cannot say it (docs/cluster.md)."""
    import yaml

    found = present(cluster.core.read_namespaced_config_map, *ARGO)
    if found is None:
        name, namespace = ARGO
        yield Finding("note", "retries", f"there is no {name} in {namespace}", "ask what Argo's retryPolicy is")
        return
    setting = yaml.safe_load((found.data or {}).get("workflowDefaults") or "") or {}
    for key in ("spec", "templateDefaults", "retryStrategy"):
        setting = setting.get(key) or {}
    policy = setting.get("retryPolicy", "OnFailure")
    if ends := UNTRIED.get(policy):
        mend = "submit the same again: it goes on where it was"
        yield Finding("note", "retries", f"Argo's retryPolicy is {policy}: a pod that {ends} ends the run", mend)
    else:
        yield Finding("ok", "retries", f"Argo's retryPolicy is {policy}")


def check_secrets(cluster: Cluster) -> Iterator[Finding]:
    """The optional secrets and the config map, by name alone: their values are never read into a line."""
    wanted: dict[str, list[str]] = {}
    for stage, pod in PODS.items():
        for name in pod.secrets:
            wanted.setdefault(name, []).append(stage)
    for name, stages in wanted.items():
        found = present(cluster.core.read_namespaced_secret, name, cluster.namespace)
        keys = ", ".join(sorted((found.data or {}) if found else {}))
        said = f"{name} with {keys}" if found else f"there is no {name}"
        mend = "" if found else f"only needed if {', '.join(stages)} must log in somewhere"
        yield Finding("ok" if found else "note", "secret", said, mend)
    if present(cluster.core.read_namespaced_config_map, ENVIRONMENT, cluster.namespace) is not None:
        yield Finding("ok", "config map", ENVIRONMENT)
    else:
        yield Finding("note", "config map", f"there is no {ENVIRONMENT}", "only needed for endpoints and proxies")


def check_nodes(cluster: Cluster, parameters: Parameters) -> Iterator[Finding]:
    """Nodes that the GPU stages can stand on: labels, taints, GPUs."""
    if not parameters.gpus:
        yield Finding("ok", "nodes", "gpus is 0: nothing asks for a GPU")
        return
    nodes = cluster.core.list_node().items
    matching = [
        node
        for node in nodes
        if all((node.metadata.labels or {}).get(key) == value for key, value in parameters.node_selector.items())
    ]
    if not matching:
        mend = "set node_selector to labels that nodes have (kubectl get nodes --show-labels)"
        yield Finding("fail", "nodes", f"none of {len(nodes)} has the labels {parameters.node_selector}", mend)
        return
    open_to_us = [node for node in matching if not node.spec.unschedulable and not barring(node, parameters)]
    if not open_to_us:
        taints = sorted({_shown(taint) for node in matching for taint in barring(node, parameters)})
        said = f"{len(matching)} match, none takes our pods (taints: {', '.join(taints) or 'none'})"
        yield Finding("fail", "nodes", said, "set tolerations for the taints, or uncordon a node")
        return
    counts = [int((node.status.allocatable or {}).get(parameters.gpu_type, 0)) for node in open_to_us]
    said = f"{len(open_to_us)} of {len(nodes)} can take our pods; the largest has {max(counts)} {parameters.gpu_type}"
    room = sum(count // parameters.gpus for count in counts)  # pods of training that fit, were nothing else there
    if not room:
        mend = f"gpus is {parameters.gpus}: a training pod must fit on one node (is the device plugin running?)"
        yield Finding("fail", "nodes", said, mend)
    elif room < parameters.num_nodes:
        mend = "unless the pool grows by itself, fewer num_nodes"
        yield Finding("note", "nodes", f"{said}: room for {room} of {parameters.num_nodes} training pods", mend)
    else:
        yield Finding("ok", "nodes", said)


def barring(node: Any, parameters: Parameters) -> list[Any]:
    """The taints of a node that keep our GPU pods off it (a preference is no obstacle)."""
    return [
        taint
        for taint in node.spec.taints or []
        if taint.effect in ("NoSchedule", "NoExecute")
        and not any(tolerates(toleration, taint) for toleration in parameters.tolerations)
    ]


def tolerates(toleration: Mapping[str, Any], taint: Any) -> bool:
    """Kubernetes' rule: an empty key with Exists tolerates all, an empty effect matches every effect."""
    if toleration.get("effect") not in (None, "", taint.effect):
        return False
    operator, key = toleration.get("operator", "Equal"), toleration.get("key") or ""
    if operator == "Exists":
        return key in ("", taint.key)
    return bool(key == taint.key and (toleration.get("value") or "") == (taint.value or ""))


def check_images(images: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the registries know the images; asked from here, without a login."""
    import urllib3

    http = urllib3.PoolManager(timeout=10.0, retries=False)
    for kind, image in sorted(images.items()):
        url, pinned = manifest_url(image), "@sha256:" in image
        try:
            status = http.request("HEAD", url, headers={"Accept": MEDIA}).status
        except urllib3.exceptions.HTTPError as error:
            yield Finding("note", "image", f"{kind}: {image}: {_short(error)}", "the cluster may still reach it")
            continue
        if status == 200:
            state, mend = ("ok", "") if pinned else ("note", "a tag: a release names digests (srpo compile --images)")
            yield Finding(state, "image", f"{kind}: {image}", mend)
        elif status in (401, 403):
            said = f"{kind}: {image}: the registry wants a login"
            yield Finding("note", "image", said, "a pull secret on the service account, unless nodes have one")
        else:
            yield Finding("fail", "image", f"{kind}: {image}: {status}", "skaffold build, then srpo compile --images")


MEDIA = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, */*"


def manifest_url(image: str) -> str:
    """Where the registry's API (OCI distribution) has the manifest of ``image``."""
    name, at, digest = image.partition("@")
    host, slash, path = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, path = "registry-1.docker.io", name if slash else f"library/{name}"
    repository, colon, tag = path.rpartition(":")
    reference = digest if at else tag if colon else "latest"
    scheme = "http" if host.partition(":")[0] in ("localhost", "127.0.0.1") else "https"
    return f"{scheme}://{host}/v2/{repository if colon else path}/manifests/{reference}"


def check_bucket(destination: str) -> Finding:
    """Whether the bucket of ``destination`` (``s3://...``) takes an object from here."""
    bucket, prefix = s3.split_uri(destination)
    key = "/".join(part for part in (prefix.strip("/"), f".srpo-doctor-{uuid.uuid4().hex}") if part)
    try:
        s3.write_bytes(f"s3://{bucket}/{key}", b"")
        with s3.errors_of(destination):
            s3.client().delete_object(Bucket=bucket, Key=key)
    except (InputError, s3.StorageError) as error:
        mend = "with your credentials; the pods use theirs (secret srpo-s3, or the service account's role)"
        return Finding("fail", "bucket", _short(error), mend)
    return Finding("ok", "bucket", f"{destination} can be written from here (the pods use credentials of their own)")


def verdict(findings: Sequence[Finding]) -> str:
    """The last line."""
    failed = sum(finding.state == "fail" for finding in findings)
    notes = sum(finding.state == "note" for finding in findings)
    return f"{failed} to mend, {notes} to know" if failed else f"ready, {notes} to know"


def _shown(taint: Any) -> str:
    return f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}"


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
