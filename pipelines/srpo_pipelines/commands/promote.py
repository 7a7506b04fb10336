"""`srpo promote`: hold a release and what people said of it against the gates, by the pipeline that a cluster runs."""

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HELP = "Promote a release that people have rated, if every gate holds; says which does not."


def epilog() -> str:
    """What stands below the options."""
    return """without other options it is about the run in --output: its candidate, the study of its rating page,
and the channel `latest` there; gates are a YAML file with `gates` (conditions), `minimum_raters` and `minimum_prompts`

exit codes: 0 decided (promoted or not: a gate that fails is a result), 1 a stage failed, 2 bad input, 130 interrupted

example: srpo promote --output runs/demo --ratings ann.json ben.json cho.json
         srpo promote --output runs/new --ratings t.parquet --study key.json --destination s3://models/flux"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of a run, or a new one")
    parser.add_argument(
        "--ratings",
        nargs="+",
        required=True,
        metavar="FILE",
        help="files of raters, or a table that was imported",
    )
    parser.add_argument("--study", metavar="KEY", help="the study's key: key.json or its folder (default: the run's)")
    parser.add_argument("--release", default="", metavar="ID", help="the release (default: the candidate)")
    parser.add_argument("--destination", metavar="DEST", help="where releases are, a folder or S3 (default: the run's)")
    parser.add_argument("--channel", default="latest", metavar="NAME", help="channel to move (default: latest)")
    parser.add_argument("--who", metavar="NAME", help="who, for the record (default: the login name)")
    parser.add_argument("--gates", metavar="FILE", help="YAML file of gates (default: those of the stage `decide`)")
    parser.add_argument("--partial", action="store_true", help="take raters who stopped early, as far as they came")


def main(args: argparse.Namespace) -> None:
    """Check, compile, run, and say what was decided."""
    from srpo.configure.promotion import PROMOTION, stage_configs
    from srpo_pipelines.commands.compile import folder_for
    from srpo_pipelines.commands.run import alone_in, interruptible
    from srpo_pipelines.package import PROMOTION_PACKAGE, compile_promotion
    from srpo_pipelines.terminal import Terminal
    from srpo_pipelines.watch import run_package

    values = parameters(args)
    stage_configs(values)
    folder = folder_for(args.output)
    with alone_in(folder), interruptible():
        package = compile_promotion(folder / PROMOTION_PACKAGE)
        records = run_package(package, dataclasses.asdict(values), folder, Terminal(list(PROMOTION), 1))
    results = {record["stage"]: Path(record["result"]) for record in records}
    decision = json.loads((results["decide"] / "decision/decision.json").read_text(encoding="utf-8"))
    print("\n".join(lines(decision, results)), flush=True)


def parameters(args: argparse.Namespace) -> Any:
    """The pipeline's parameters; paths are absolute, since the stages run elsewhere.

    Raises:
        InputError: a file has a comma in its name, which separates files in the parameter.
    """
    from srpo.configure.promotion import Promotion
    from srpo.core.contracts.errors import InputError
    from srpo_pipelines.commands.releases import login
    from srpo_pipelines.summary import RATING_KEY

    folder = args.output.absolute()
    files = [str(Path(name).absolute()) for name in args.ratings]
    for name in files:
        if "," in name:
            raise InputError(f"--ratings has {name!r}: it must be a path without a comma")
    return Promotion(
        ratings=",".join(files),
        study=str(Path(args.study).absolute() if args.study else folder / RATING_KEY),
        release=args.release,
        gates=str(Path(args.gates).absolute()) if args.gates else "",
        channel=args.channel,
        who=args.who or login(),
        partial=args.partial,
        destination=args.destination or str(folder),
        workspace=str(folder / "workspace"),
    )


def lines(decision: Mapping[str, Any], results: Mapping[str, Path]) -> list[str]:
    """What `srpo promote` ends with: the ratings in a sentence, each gate, the decision, and where the reports are."""
    shown = ["", f"people: {decision['ratings']}"]
    for gate in decision["gates"]:
        value = "not measured" if gate["value"] is None else f"found {gate['value']:.4g}"
        shown.append(f"  {'passed' if gate['passed'] else 'FAILED'}  {gate['condition']} ({value})")
    state = "promoted" if decision["promoted"] else "not promoted"
    shown.append(
        f"{decision['release']}: {state}; {decision['channel']} points to {decision['points_to'] or 'nothing'}"
    )
    shown.append(f"report:  {results['decide'] / 'report.html'}")
    shown.append(f"ratings: {results['collect_ratings'] / 'report.html'}")
    return shown
