"""From the pipeline to the file that Kubeflow takes: IR YAML, or Kubernetes manifests of the same for GitOps."""

import importlib
import json
import re
import tempfile
from collections.abc import Mapping
from itertools import dropwhile
from pathlib import Path
from typing import Any

from srpo.core.contracts.config import load_yaml
from srpo.core.contracts.errors import InputError, cause
from srpo.core.storage.files import digest_of
from srpo_pipelines.resources import images as installed_images
from srpo_pipelines.servers import OLDEST, for_server

PACKAGE = "align.yaml"
PROMOTION_PACKAGE = "promote.yaml"


def compile_package(
    path: Path, defaults: Mapping[str, Any], images: Mapping[str, str] | None = None, server: str = OLDEST
) -> Path:
    """Write the `align` package to ``path``, whole or not at all.

    Args:
        path: the file.
        defaults: replace the parameters' defaults.
        images: of each kind (``cpu``, ``gpu``), in place of the installed map.
        server: the oldest version of Kubeflow Pipelines that takes it (``srpo_pipelines.servers.VERSIONS``).
    """
    return _write(path, defaults, images or {}, server)


def compile_promotion(path: Path, images: Mapping[str, str] | None = None, server: str = OLDEST) -> Path:
    """Write the `promote` package to ``path``, whole or not at all; the rest as of :func:`compile_package`."""
    return _write(path, {}, images or {}, server, pipeline="promote")


def compile_manifests(
    path: Path,
    defaults: Mapping[str, Any],
    images: Mapping[str, str] | None = None,
    namespace: str | None = None,
    server: str = OLDEST,
) -> Path:
    """Write the pipeline as ``Pipeline`` and ``PipelineVersion`` resources, for a cluster that is kept by GitOps.

    A version's content is fixed once it is applied, so its name ends in a hash of it.
    """
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    with tempfile.TemporaryDirectory() as folder:
        package = _write(Path(folder) / PACKAGE, defaults, images or {}, server)
        content = digest_of(package.read_text(encoding="utf-8"))
    options = KubernetesManifestOptions(
        pipeline_version_name=f"align-{content[:12]}",
        pipeline_display_name="Align",
        namespace=namespace,
        include_pipeline_manifest=True,
    )
    manifests = {"kubernetes_manifest_format": True, "kubernetes_manifest_options": options}
    return _write(path, defaults, images or {}, server, **manifests)


def read_images(path: Path) -> dict[str, str]:
    """The images of a release: what ``skaffold build --file-output`` writes, or a mapping with ``cpu`` and ``gpu``.

    Raises:
        InputError: a kind is missing, or an image has neither a digest nor a fixed tag.
    """
    import yaml

    accepted = "the file of `skaffold build --file-output`, or a mapping with cpu and gpu"
    try:
        given = load_yaml(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--images {str(path)!r} cannot be read ({cause(error)}): it must be {accepted}") from None
    if isinstance(given, dict) and isinstance(given.get("builds"), list):
        builds = [build for build in given["builds"] if isinstance(build, dict)]
        named = {str(build.get("imageName", "")).rpartition("/")[2]: build.get("tag") for build in builds}
        given = {kind: named.get(f"srpo-{kind}") for kind in installed_images()}
    found = {}
    for kind in installed_images():
        image = given.get(kind) if isinstance(given, dict) else None
        if not isinstance(image, str) or not re.fullmatch(r"\S+", image):
            raise InputError(f"--images {str(path)!r} names no image {kind!r}: it must be {accepted}")
        name = image.rpartition("/")[2]
        if "@sha256:" not in image and (":" not in name or name.endswith(":latest")):
            raise InputError(
                f"image {kind} is {image!r}: it must have a digest (@sha256:...) or a tag that never moves"
            )
        found[kind] = image
    return found


def _write(
    path: Path,
    defaults: Mapping[str, Any],
    images: Mapping[str, str],
    server: str,
    pipeline: str = "align",
    **options: Any,
) -> Path:
    import warnings

    from kfp import compiler

    made = for_server(getattr(importlib.import_module(f"srpo_pipelines.{pipeline}"), pipeline), server)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".compile-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        partial = Path(folder) / path.name
        compiler.Compiler().compile(made, str(partial), pipeline_parameters=dict(defaults), **options)
        # Kubeflow begins the file with a comment that prints mappings in another order each time: without it, the same
        # pipeline gives the same bytes.
        lines = partial.read_text(encoding="utf-8").splitlines(keepends=True)
        text = "".join(dropwhile(lambda line: line.startswith("#"), lines))
        for kind, image in images.items():
            for key in ("image", "value"):  # the container's, and what it is told of it (SRPO_IMAGE)
                text = text.replace(f"{key}: {installed_images()[kind]}\n", f"{key}: {json.dumps(image)}\n")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    return path
