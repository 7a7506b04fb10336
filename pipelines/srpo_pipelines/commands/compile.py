"""`srpo compile`: the pipeline as the package that Kubeflow runs."""

import argparse
import dataclasses
import os
from pathlib import Path

from srpo.core.contracts.errors import InputError
from srpo_pipelines.package import (
    PACKAGE,
    PROMOTION_PACKAGE,
    compile_manifests,
    compile_package,
    compile_promotion,
    read_images,
)
from srpo_pipelines.servers import OLDEST, VERSIONS, named

HELP = "Compile the pipelines to Kubeflow's IR YAML."
MANIFESTS = "align-manifests.yaml"
PACKAGES = f"{PACKAGE} and {PROMOTION_PACKAGE}"


def epilog() -> str:
    """What stands below the options."""
    return """the images of a release, by digest:
  skaffold build --file-output images.json
  srpo compile --images images.json --output build

for GitOps, beside the package a file of Pipeline and PipelineVersion resources:
  srpo compile --recipe flux1-dev-hpsv2 --images images.json --manifests --namespace team --output build

a package for newer servers alone says more: as which user its pods run (2.16), how long its logs are kept (2.17)

example: srpo compile --output build"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"folder that gets {PACKAGES}")
    parser.add_argument(
        "--recipe", default="demo", metavar="NAME", help="recipe whose values are the form's defaults (default: demo)"
    )
    add_images(parser)
    add_server(parser, f"default: {OLDEST}, which the newer ones take too")
    parser.add_argument("--manifests", action="store_true", help=f"write {MANIFESTS} too, for GitOps")
    parser.add_argument("--namespace", metavar="NS", help="namespace that the manifests name (default: none)")


def add_images(parser: argparse.ArgumentParser) -> None:
    """The option that names the images of a release."""
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FILE",
        help="images by digest: what `skaffold build --file-output FILE` wrote",
    )


def add_server(parser: argparse.ArgumentParser, default: str) -> None:
    """The option that names the server's version."""
    parser.add_argument(
        "--server",
        metavar="VERSION",
        help=f"oldest Kubeflow Pipelines that takes it: {', '.join(VERSIONS)} ({default})",
    )


def main(args: argparse.Namespace) -> None:
    """Compile and say where the package is."""
    from srpo_pipelines.settings import parameters

    defaults = dataclasses.asdict(parameters(args.recipe))
    images = read_images(args.images) if args.images else None
    server = named(args.server) if args.server else OLDEST
    if args.namespace and not args.manifests:
        raise InputError(f"--namespace is {args.namespace!r}: it belongs to --manifests; the package names none")
    folder = folder_for(args.output)
    print(compile_package(folder / PACKAGE, defaults, images, server))
    print(compile_promotion(folder / PROMOTION_PACKAGE, images, server))
    if args.manifests:
        print(compile_manifests(folder / MANIFESTS, defaults, images, args.namespace, server))


def folder_for(path: Path) -> Path:
    """``path`` as an absolute folder that exists.

    Raises:
        InputError: it, or something on the way to it, is not a folder or may not be written.
    """
    try:
        path = path.absolute()
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK | os.X_OK)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--output is {str(path)!r}, which is (or lies in) a file: it must be a folder") from None
    except (PermissionError, FileNotFoundError):  # the latter from a file system that takes no folders, as /proc
        writable = False
    if not writable:
        raise InputError(f"--output is {str(path)!r}: it must be a folder that may be written")
    return path
