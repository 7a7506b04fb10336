"""`srpo doctor`: what a cluster still lacks before the first run."""

import argparse
from typing import TYPE_CHECKING

from srpo.core.contracts.errors import InputError
from srpo_pipelines.commands.compile import add_images
from srpo_pipelines.errors import Failed

if TYPE_CHECKING:
    from srpo_pipelines.doctor import Cluster, Finding

HELP = "Look at a cluster before the first run: a line for each thing it needs, with the mend."


def epilog() -> str:
    """What stands below the options."""
    return """it looks with your kubeconfig and changes nothing; in an s3:// destination it writes and removes an object

exit codes: 0 ready, 1 something must be mended, 2 bad input

example: srpo doctor --host http://localhost:8080 --namespace team --recipe flux1-dev-hpsv2 \\
    --set 'node_selector={pool: h100}'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--host", metavar="URL", help="address of Kubeflow's API (without: not looked at)")
    parser.add_argument("--namespace", default="kubeflow", metavar="NS", help="where the pods run (default: kubeflow)")
    parser.add_argument("--context", metavar="NAME", help="context of your kubeconfig (default: the current one)")
    parser.add_argument("--service-account", default="srpo-runner", metavar="SA", help="default: srpo-runner")
    parser.add_argument("--recipe", default="demo", metavar="NAME", help="recipe that shall run (default: demo)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter or a stage's setting; repeatable"
    )
    add_images(parser)


def main(args: argparse.Namespace) -> None:
    """Print each finding as it comes, and end with the verdict."""
    from srpo_pipelines import doctor, kubeflow
    from srpo_pipelines.package import read_images
    from srpo_pipelines.resources import images
    from srpo_pipelines.settings import parameters

    wanted = parameters(args.recipe, args.set)
    named = read_images(args.images) if args.images else images()
    at = kubeflow.api(args.host) if args.host else None
    findings = []

    def say(finding: doctor.Finding) -> None:
        findings.append(finding)
        print(finding, flush=True)

    if at is not None:
        try:
            tag = kubeflow.server_version(at, kubeflow.connect(at, args.namespace))
            say(server(at.host, tag))
        except Failed as error:
            said = str(error).removeprefix("srpo: ")
            say(doctor.Finding("fail", "kubeflow", said, "is --host the address of the UI?"))
    for finding in doctor.examine(cluster(args), wanted, named):
        say(finding)
    if wanted.destination.startswith("s3://"):
        say(doctor.check_bucket(wanted.destination))
    print(doctor.verdict(findings), flush=True)
    if any(finding.state == "fail" for finding in findings):
        raise SystemExit(1)


def server(host: str, tag: str) -> "Finding":
    """Whether Kubeflow's API takes the package: by the version ``tag`` that it says it is."""
    from srpo_pipelines import doctor, servers

    said = f"{host} answers, version {tag or 'not told'}"
    if servers.is_known(tag):
        return doctor.Finding("ok", "kubeflow", said)
    try:
        fits = servers.fitting(tag)
    except InputError:
        versions = ", ".join(servers.VERSIONS)
        return doctor.Finding("fail", "kubeflow", f"{said}: it refuses the package", f"install one of {versions}")
    return doctor.Finding("note", "kubeflow", f"{said}: not one that was tried", f"it gets the package for {fits}")


def cluster(args: argparse.Namespace) -> "Cluster":
    """The cluster of the kubeconfig.

    Raises:
        Failed: there is no kubeconfig that can be used, or the API cannot be reached.
    """
    import urllib3
    from kubernetes import client, config

    from srpo_pipelines import doctor

    try:
        api = config.new_client_from_config(context=args.context)
        api.configuration.retries = False
        client.VersionApi(api).get_code()
    except config.ConfigException as error:
        raise Failed(f"srpo: no usable kubeconfig: {error}", 1) from None
    except (urllib3.exceptions.HTTPError, client.ApiException, OSError) as error:
        said = " ".join(str(getattr(error, "reason", error)).split())
        raise Failed(f"srpo: the Kubernetes API cannot be used: {said}", 1) from None
    return doctor.Cluster(api, args.namespace, args.service_account)
