"""`srpo schedule`: retrain at set times, through the API of Kubeflow Pipelines."""

import argparse
import dataclasses
import datetime
import tempfile
from pathlib import Path

from srpo_pipelines.commands.compile import add_images, add_server
from srpo_pipelines.commands.submit import require_json

HELP = "Retrain at set times on a cluster: create, list, pause, resume and delete schedules."


def epilog() -> str:
    """What stands below the options."""
    return """a schedule starts the pipeline with the parameters it was made with. Each run reads its prompt files anew,
so it trains on what is there then; a run that finds nothing changed reuses what is finished and trains nothing. A run
starts only when the one before it has ended, and none is made up for afterwards. --cron is read in the time zone of
Kubeflow's controller, UTC as a rule; the next five times are shown in UTC and here.

tokens come from the environment alone, as for `srpo submit`

  srpo schedule list --host URL
  srpo schedule pause --host URL --name weekly
example: srpo schedule create --host URL --name weekly --cron "0 3 * * mon" \\
    --recipe flux1-dev-hpsv2 --set prompts=/workspace/prompts/newest.jsonl --service-account srpo-runner"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions and their options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--host", required=True, metavar="URL", help="address of the API (of the UI, as a rule)")
    common.add_argument("--namespace", metavar="NS", help="namespace of the profile; on multi-user Kubeflow only")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("--name", required=True, metavar="NAME", help="name of the schedule")

    create = actions.add_parser(
        "create",
        help="make a schedule, enabled",
        parents=[common, named],
        epilog=epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    create.add_argument(
        "--cron",
        required=True,
        metavar="EXPR",
        help='when, in the controller\'s time zone, as in "0 3 * * mon" or @weekly',
    )
    create.add_argument("--recipe", default="demo", metavar="NAME", help="recipe to start from (default: demo)")
    create.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter or a stage's setting; repeatable"
    )
    add_images(create)
    add_server(create, "default: what the server says of itself")
    create.add_argument("--experiment", default="Default", metavar="NAME", help="made if there is none")
    create.add_argument("--service-account", metavar="SA", help="who the pods are (manifests/ makes srpo-runner)")
    create.add_argument("--pipeline-root", metavar="URI", help="where Kubeflow keeps artifacts (default: its own)")
    actions.add_parser("list", help="show the schedules of the namespace", parents=[common])
    for action, text in (("pause", "start no more runs"), ("resume", "start runs again"), ("delete", "remove it")):
        actions.add_parser(action, help=text, parents=[common, named])


def main(args: argparse.Namespace) -> None:
    """Do what the action says, and say what was done."""
    from srpo_pipelines import kubeflow, schedules

    if args.action == "create":
        _create(args)
        return
    at = kubeflow.api(args.host)
    client = kubeflow.connect(at, args.namespace)
    if args.action == "list":
        for one in schedules.listed(at, client, args.namespace):
            cron = one.trigger.cron_schedule.cron if one.trigger and one.trigger.cron_schedule else "-"
            state = "enabled" if one.status == "ENABLED" else "paused"
            print(f"{one.display_name}\t{state}\t{cron}\t{one.recurring_run_id}", flush=True)
        return
    act = {
        "pause": client.disable_recurring_run,
        "resume": client.enable_recurring_run,
        "delete": client.delete_recurring_run,
    }[args.action]
    for one in schedules.find(at, client, args.name, args.namespace):
        with kubeflow.telling(at):
            act(one.recurring_run_id)
        print(f"{args.action}d {one.display_name} ({one.recurring_run_id})", flush=True)


def _create(args: argparse.Namespace) -> None:
    """Check everything, compile, and make the schedule."""
    from srpo_pipelines import kubeflow, schedules
    from srpo_pipelines.package import PACKAGE, compile_package, read_images
    from srpo_pipelines.servers import fitting, named
    from srpo_pipelines.settings import parameters

    cron = schedules.cron_expression(args.cron)
    arguments = dataclasses.asdict(parameters(args.recipe, args.set))
    require_json(arguments)
    if args.server:
        named(args.server)
    images = read_images(args.images) if args.images else None
    at = kubeflow.api(args.host)
    with tempfile.TemporaryDirectory(prefix="srpo-") as folder:
        client = kubeflow.connect(at, args.namespace)
        server = args.server or fitting(kubeflow.server_version(at, client))
        package = compile_package(Path(folder) / PACKAGE, dataclasses.asdict(parameters(args.recipe)), images, server)
        identity = schedules.create(
            at,
            client,
            name=args.name,
            cron=cron,
            package=package,
            arguments=arguments,
            experiment=args.experiment,
            namespace=args.namespace,
            service_account=args.service_account,
            pipeline_root=args.pipeline_root,
        )
    print(f"schedule {args.name} ({identity}): {cron}")
    print("\n".join(lines(cron, datetime.datetime.now(datetime.UTC).replace(microsecond=0))), flush=True)


def lines(cron: str, now: datetime.datetime) -> list[str]:
    """When a schedule starts next, in UTC and here, and what that holds of; ``now`` is in UTC."""
    from srpo_pipelines.schedules import next_times

    times = next_times(cron, now, 5)
    return [
        "next, where Kubeflow's controller counts in UTC (it does unless its CRON_SCHEDULE_TIMEZONE says otherwise):",
        *(f"  {time:%a %Y-%m-%d %H:%M:%S} UTC  {time.astimezone():%a %Y-%m-%d %H:%M:%S %Z}" for time in times),
    ]
