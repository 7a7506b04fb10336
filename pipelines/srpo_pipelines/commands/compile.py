"""`srpo compile`: the pipeline as the package that Kubeflow runs."""

import argparse
import dataclasses
import tempfile
from itertools import dropwhile
from pathlib import Path

from srpo.core.contracts.errors import InputError

HELP = "Compile the pipeline to Kubeflow's IR YAML."
PACKAGE = "align.yaml"


def epilog() -> str:
    """What stands below the options."""
    return "example: srpo compile --output build"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help=f"folder that gets {PACKAGE}")
    parser.add_argument(
        "--recipe", default="demo", metavar="NAME", help="recipe whose values are the form's defaults (default: demo)"
    )


def main(args: argparse.Namespace) -> None:
    """Compile and say where the package is."""
    from srpo_pipelines.settings import parameters

    print(compile_package(folder_for(args.output) / PACKAGE, dataclasses.asdict(parameters(args.recipe))))


def folder_for(path: Path) -> Path:
    """``path`` as an absolute folder that exists.

    Raises:
        InputError: it, or something on the way to it, is not a folder or may not be written.
    """
    try:
        path = path.absolute()
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"--output is {str(path)!r}, which is (or lies in) a file: it must be a folder") from None
    except PermissionError:
        raise InputError(f"--output is {str(path)!r}: it must be a folder that may be written") from None
    return path


def compile_package(path: Path, defaults: dict[str, object]) -> Path:
    """Write the `align` package to ``path``, whole or not at all; ``defaults`` replace the parameters' defaults."""
    import warnings

    from kfp import compiler

    from srpo_pipelines.align import align

    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".compile-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        partial = Path(folder) / PACKAGE
        compiler.Compiler().compile(align, str(partial), pipeline_parameters=defaults)
        # Kubeflow begins the file with a comment that prints mappings in another order each time: without it, the same
        # pipeline gives the same bytes.
        lines = partial.read_text(encoding="utf-8").splitlines(keepends=True)
        partial.write_text("".join(dropwhile(lambda line: line.startswith("#"), lines)), encoding="utf-8")
        partial.replace(path)
    return path
