"""What `srpo doctor` says of a cluster, and the questions that its checks ask."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

KUBEFLOW = "kubeflow"  # the usual namespace of Kubeflow Pipelines itself


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line: ``state`` is ok, note (a run can do without) or fail."""

    state: str
    what: str
    said: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.state:4}  {self.what:16}  {self.said}{f' -> {self.mend}' if self.mend else ''}"


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The Kubernetes API as the person who asks may see it."""

    client: Any  # kubernetes.client.ApiClient
    namespace: str
    service_account: str

    @property
    def core(self) -> Any:
        """Pods, nodes, claims, secrets."""
        from kubernetes import client

        return client.CoreV1Api(self.client)


@contextlib.contextmanager
def refusals_told(what: str) -> Iterator[list[Finding]]:
    """Turn an error of the API into a finding: a check that may not look says so, and the others go on."""
    from kubernetes.client import ApiException

    told: list[Finding] = []
    try:
        yield told
    except ApiException as error:
        said = f"cannot be looked at: {error.status} {error.reason}"
        told.append(Finding("note", what.replace("_", " "), said, "ask who may look at it"))


def present(read: Any, *arguments: Any) -> Any:
    """What ``read`` gives, or None where there is no such thing."""
    from kubernetes.client import ApiException

    try:
        return read(*arguments)
    except ApiException as error:
        if error.status == 404:
            return None
        raise


def lacking(cluster: Cluster, rights: Sequence[tuple[str, str, str, str]], user: str = "") -> list[str]:
    """Those of ``rights`` (verb, group, resource, name) that the service account, or ``user``, lacks, in words."""
    from kubernetes import client

    reviews = client.AuthorizationV1Api(cluster.client)
    missing = []
    for verb, group, kind, name in rights:
        resource, _, part = kind.partition("/")
        attributes = client.V1ResourceAttributes(
            namespace=cluster.namespace, verb=verb, group=group, resource=resource, subresource=part or None, name=name
        )
        spec = client.V1SubjectAccessReviewSpec(
            user=user or f"system:serviceaccount:{cluster.namespace}:{cluster.service_account}",
            resource_attributes=attributes,
        )
        answer = reviews.create_subject_access_review(client.V1SubjectAccessReview(spec=spec))
        if not answer.status.allowed:
            missing.append(f"{verb} {kind}{f'/{name}' if name else ''}")
    return missing
