"""`srpo submit`: the whole pipeline on a cluster, through the API of Kubeflow Pipelines."""

import argparse
import dataclasses
import datetime
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo_pipelines.commands.compile import add_images, add_server
from srpo_pipelines.errors import Failed
from srpo_pipelines.package import PACKAGE, compile_package, read_images
from srpo_pipelines.servers import fitting, named

HELP = "Run the whole pipeline on a cluster, through the API of Kubeflow Pipelines."


def epilog() -> str:
    """What stands below the options."""
    return """parameters and settings for --set are those of `srpo run --help`; paths are paths in the pods

tokens come from the environment alone: KF_PIPELINES_TOKEN (a bearer token), or KF_PIPELINES_SA_TOKEN_PATH (a file with
one) and KF_PIPELINES_IAP_OAUTH2_CLIENT_ID as kfp.Client reads them

exit codes: 0 submitted (with --wait: succeeded), 1 the API cannot be reached or refuses (with --wait: or the run
failed), 2 bad input, 130 interrupted

with kfp's own command line, which checks no setting and names no service account (`overrides` replace the recipe's,
and text that looks like a number needs quotes of its own: prompts='"1"'):
  srpo compile --recipe demo --output build
  kfp --endpoint URL run create -e EXP -r NAME -f build/align.yaml steps=40 'overrides={"train": {"margin": 0.5}}'

example: srpo submit --host http://localhost:8080 --service-account srpo-runner --set steps=40 --wait"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--host", required=True, metavar="URL", help="address of the API (of the UI, as a rule)")
    parser.add_argument("--recipe", default="demo", metavar="NAME", help="recipe to start from (default: demo)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter or a stage's setting; repeatable"
    )
    add_images(parser)
    add_server(parser, "default: what the server says of itself")
    parser.add_argument("--namespace", metavar="NS", help="namespace of the profile; on multi-user Kubeflow only")
    parser.add_argument("--experiment", metavar="NAME", help="made if there is none (default: Default)")
    parser.add_argument("--run-name", metavar="NAME", help="name in the UI (default: recipe and time)")
    parser.add_argument("--service-account", metavar="SA", help="who the pods are (manifests/ makes srpo-runner)")
    parser.add_argument("--pipeline-root", metavar="URI", help="where Kubeflow keeps artifacts (default: its own)")
    parser.add_argument("--wait", action="store_true", help="return when the run has ended")


def main(args: argparse.Namespace) -> None:
    """Check everything, compile, create the run, and say where it is; with --wait, what became of it."""
    from srpo_pipelines.kubeflow import api, connect, create_run, server_version, wait
    from srpo_pipelines.settings import parameters

    arguments = dataclasses.asdict(parameters(args.recipe, args.set))
    require_json(arguments)
    if args.server:
        named(args.server)
    images = read_images(args.images) if args.images else None
    at = api(args.host)
    with tempfile.TemporaryDirectory(prefix="srpo-") as folder:
        client = connect(at, args.namespace)
        server = args.server or fitting(server_version(at, client))
        package = compile_package(Path(folder) / PACKAGE, dataclasses.asdict(parameters(args.recipe)), images, server)
        identity, page = create_run(
            at,
            client,
            pipeline_file=str(package),
            arguments=arguments,
            run_name=args.run_name or f"align {args.recipe} {datetime.datetime.now():%Y-%m-%d %H-%M-%S}",
            experiment_name=args.experiment,
            namespace=args.namespace,
            pipeline_root=args.pipeline_root,
            service_account=args.service_account,
        )
    print(f"run {identity}\n{page}", flush=True)
    if args.wait:
        try:
            wait(at, client, identity, lambda state: print(state, flush=True))
        except KeyboardInterrupt:
            raise Failed("srpo: interrupted; the run goes on", 130) from None


def require_json(arguments: Mapping[str, Any]) -> None:
    """Refuse what YAML can write and the API cannot be sent: a date, an infinite number.

    Raises:
        InputError: naming the parameter.
    """
    for name, value in arguments.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            raise InputError(f"{name} is {value!r}: it must be text, finite numbers, lists and mappings") from None
