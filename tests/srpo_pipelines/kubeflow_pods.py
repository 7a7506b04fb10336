"""The pods that Kubeflow's driver makes of a package, and what Kubernetes would refuse of them.

The driver writes a patch of the pod (initPodSpecPatch and extendPodSpecPatch in backend/src/v2/driver). Argo merges it
strategically: entries of one list with the same name become one entry. The API server's own proxy and Kubeflow's
plugins add plain values; the package maps references to secrets and config maps.
"""

from typing import Any

import kubernetes_validate

PROXY = {"HTTPS_PROXY": "http://proxy:3128", "https_proxy": "http://proxy:3128", "NO_PROXY": "localhost"}
PLUGIN = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "MLFLOW_RUN_ID": "r", "MLFLOW_WORKSPACE": "team"}
# Variables that Kubeflow's launcher obeys itself, for artifacts and for its calls into the cluster, before it starts a
# stage: the AWS SDK's (Go's reads the same as Python's) and Go's own for proxies.
LAUNCHER = ("AWS_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_")


def pods(spec: dict[str, Any], platform: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name of the executor -> its pod, with the API server's proxy and the MLflow plugin on."""
    configs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    executors = spec["deploymentSpec"]["executors"]
    return {name: pod(name, one["container"], configs.get(name, {})) for name, one in executors.items()}


def pod(name: str, container: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """One pod, as the API server of Kubernetes would get it."""
    values = [(one["name"], {"value": one.get("value", "")}) for one in container.get("env", [])]
    values += [(key, {"value": value}) for key, value in (PROXY | PLUGIN).items()]
    references = [
        (key["envVar"], {"valueFrom": {kind: {"name": one[which], "key": key[field], "optional": one["optional"]}}})
        for kind, list_, which, field in (
            ("secretKeyRef", "secretAsEnv", "secretName", "secretKey"),
            ("configMapKeyRef", "configMapAsEnv", "configMapName", "configMapKey"),
        )
        for one in config.get(list_, [])
        for key in one["keyToEnv"]
    ]
    fields = [
        (one["name"], {"valueFrom": {"fieldRef": {"fieldPath": one["fieldPath"]}}})
        for one in config.get("fieldPathAsEnv", [])
    ]
    merged: dict[str, dict[str, Any]] = {}
    for variable, entry in [*values, *references, *fields]:
        merged.setdefault(variable, {"name": variable}).update(entry)
    resources = container.get("resources", {})
    security = config.get("securityContext", {})
    spec = {
        "containers": [
            {
                "name": "main",
                "image": container["image"],
                "command": container["command"],
                "args": container["args"],
                "env": list(merged.values()),
                "resources": {
                    kind: {"cpu": resources[f"resourceCpu{end}"], "memory": resources[f"resourceMemory{end}"]}
                    for kind, end in (("requests", "Request"), ("limits", "Limit"))
                },
                "securityContext": {
                    key: int(value) if value != bool(value) else value for key, value in security.items()
                },
                "volumeMounts": [
                    *({"name": one["constant"], "mountPath": one["mountPath"]} for one in config.get("pvcMount", [])),
                    *(
                        {"name": one["volumeName"], "mountPath": one["mountPath"]}
                        for one in config.get("emptyDirMounts", [])
                    ),
                ],
            }
        ],
        "volumes": [
            *(
                {"name": one["constant"], "persistentVolumeClaim": {"claimName": one["constant"]}}
                for one in config.get("pvcMount", [])
            ),
            *(
                {
                    "name": one["volumeName"],
                    "emptyDir": {key: one[key] for key in ("medium", "sizeLimit") if key in one},
                }
                for one in config.get("emptyDirMounts", [])
            ),
        ],
        "restartPolicy": "Never",
    }
    if deadline := config.get("activeDeadlineSeconds"):
        spec["activeDeadlineSeconds"] = int(deadline)
    metadata = {"name": name, **config.get("podMetadata", {})}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def refused(spec: dict[str, Any], platform: dict[str, Any]) -> str | None:
    """What Kubernetes says of the first pod that it would not take, or None."""
    for name, one in pods(spec, platform).items():
        try:
            kubernetes_validate.validate(one, "1.34", strict=True)
        except kubernetes_validate.ValidationError as error:
            return f'Pod "{name}" is invalid: {error.message}'
        for index, entry in enumerate(one["spec"]["containers"][0]["env"]):  # no schema can say this (validation.go)
            if entry.get("value") and "valueFrom" in entry:
                where = f"spec.containers[0].env[{index}].valueFrom ({entry['name']})"
                return f'Pod "{name}" is invalid: {where}: may not be specified when `value` is not empty'
    return None


def steers_the_launcher(one: dict[str, Any]) -> list[str]:
    """Variables of the package's own in a pod that Kubeflow's launcher would obey."""
    references = [entry["name"] for entry in one["spec"]["containers"][0]["env"] if "valueFrom" in entry]
    return [name for name in references if name.upper().startswith(LAUNCHER)]
