"""Which versions of Kubeflow Pipelines take the packages, and what an older one must not be shown.

A server refuses a package with a field that its protos do not have, and its driver a task with one. The tests hold each
version here against the protos of its release.
"""

import copy
import re
from typing import Any

from srpo.core.contracts.errors import InputError

VERSIONS = ("2.15", "2.16", "2.17")  # 2.14 and older know no optional config map, and would wait for ours for ever
OLDEST, NEWEST = VERSIONS[0], VERSIONS[-1]
SECURITY_CONTEXT = "2.16"  # the first version that knows it; before, the images' own user counts, which is the same
LIFETIME = "2.17"  # the first that knows how long a finished run is kept; before, the cluster's own setting counts


def named(version: str) -> str:
    """One of ``VERSIONS``, from an option.

    Raises:
        InputError: it is none.
    """
    if version not in VERSIONS:
        raise InputError(f"--server is {version!r}: it must be one of {', '.join(VERSIONS)}")
    return version


def fitting(tag: str) -> str:
    """The version to compile for, where a server says of itself that it is ``tag`` ("2.16.1").

    What says nothing of use gets the package that all of them take; what is newer than those known gets the newest.

    Raises:
        InputError: it is too old, or of another major version.
    """
    found = _numbers(tag)
    if found is None:
        return OLDEST
    if found < _known(OLDEST) or found[0] > _known(NEWEST)[0]:
        raise InputError(
            f"the server is Kubeflow Pipelines {tag}: it must be one of {', '.join(VERSIONS)} (or a newer 2.x)"
        )
    return max((one for one in VERSIONS if _known(one) <= found), key=_known)


def is_known(tag: str) -> bool:
    """Whether ``tag`` is a release of one of ``VERSIONS``."""
    return _numbers(tag) in [_known(one) for one in VERSIONS]


def for_server(pipeline: Any, version: str) -> Any:
    """The compiled ``pipeline`` (a ``GraphComponent``) without what a server of ``version`` would refuse."""
    made = copy.copy(pipeline)
    made.component_spec = copy.copy(pipeline.component_spec)
    made.component_spec.platform_spec = copy.deepcopy(pipeline.platform_spec)
    kubernetes = made.component_spec.platform_spec.platforms["kubernetes"]
    if _known(version) < _known(LIFETIME):
        kubernetes.ClearField("pipelineConfig")
    if _known(version) < _known(SECURITY_CONTEXT):
        for executor in kubernetes.deployment_spec.executors.values():
            executor.fields.pop("securityContext")
    return made


def _known(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _numbers(tag: str) -> tuple[int, ...] | None:
    found = re.match(r"v?(\d+)\.(\d+)(?!\d)", tag)
    return (int(found[1]), int(found[2])) if found else None
