"""Where Kubeflow keeps the artifacts of a namespace: in a bucket that somebody has named and that its UI may read."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from srpo_pipelines.findings import KUBEFLOW, Cluster, Finding, lacking, present

LAUNCHER = "kfp-launcher"  # Kubeflow's own config map: where artifacts go
PART_OF = "app.kubernetes.io/part-of"
UI = "ml-pipeline-ui"  # the service account of Kubeflow's UI, in Kubeflow's namespace
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")  # S3's rule for names
EXAMPLES = ("srpo-artifacts",)  # what an earlier version's manifests named


def check_launcher(cluster: Cluster) -> Iterator[Finding]:
    """Where Kubeflow keeps artifacts, and whether its UI may read them there to show their pages."""
    import yaml

    found = present(cluster.core.read_namespaced_config_map, LAUNCHER, cluster.namespace)
    data = (found.data if found else None) or {}
    root = data.get("defaultPipelineRoot", "")
    if not root:
        yield Finding("ok", "artifacts", "artifacts go where Kubeflow was installed to put them")
        return
    if is_placeholder(root):
        mend = "name a bucket that is yours (manifests/overlays/profile)"
        yield Finding("fail", "artifacts", f"artifacts go to {root}, a bucket that nobody here has named", mend)
    elif ((found.metadata.labels if found.metadata else None) or {}).get(PART_OF) == "srpo" and is_kubeflows(cluster):
        said = (
            f"the map {LAUNCHER} is ours, in Kubeflow's own namespace: it sends all pipelines of the cluster to {root}"
        )
        yield Finding(
            "fail", "artifacts", said, "put Kubeflow's own map back, and overlays/profile into profiles alone"
        )
    else:
        yield Finding("ok", "artifacts", f"artifacts go to {root}")
    providers = yaml.safe_load(data.get("providers") or "") or {}
    for name in sorted(secrets_of(providers)):
        reader = f"system:serviceaccount:{KUBEFLOW}:{UI}"
        if lacking(cluster, [("get", "", "secrets", name)], reader):
            mend = f"a role there that lets {reader} get the secret {name} (kubeflow/pipelines#12041)"
            yield Finding("note", "pages", f"Kubeflow's UI may not read the secret {name}: it will show no pages", mend)


def is_placeholder(root: str) -> bool:
    """Whether an address of artifacts is one of an example, or names no bucket that there can be."""
    bucket = root.partition("://")[2].partition("/")[0]
    return bucket in EXAMPLES or not BUCKET.fullmatch(bucket)


def is_kubeflows(cluster: Cluster) -> bool:
    """Whether the namespace is the one in which Kubeflow Pipelines itself stands."""
    return present(cluster.core.read_namespaced_config_map, "pipeline-install-config", cluster.namespace) is not None


def secrets_of(providers: Any) -> set[str]:
    """The secrets that the artifact store's settings take keys from."""
    if not isinstance(providers, Mapping):
        return set()
    own = providers.get("secretRef")
    named = {str(own["secretName"])} if isinstance(own, Mapping) and own.get("secretName") else set()
    return named.union(*(secrets_of(value) for value in providers.values() if isinstance(value, Mapping)))
