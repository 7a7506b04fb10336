"""`srpo run`: the whole pipeline on this machine, by KFP's own local runner."""

import argparse
import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path

from srpo.configure.parameters import STAGES, Parameters
from srpo.core.contracts.errors import InputError
from srpo_pipelines.commands.compile import folder_for
from srpo_pipelines.errors import Failed
from srpo_pipelines.package import PACKAGE, compile_package

HELP = "Run the whole pipeline on this machine, with the package that a cluster would run."


def epilog() -> str:
    """What stands below the options: every parameter with its default."""
    width = max(len(field.name) for field in dataclasses.fields(Parameters))
    rows = []
    for field in dataclasses.fields(Parameters):
        default = field.default_factory() if callable(field.default_factory) else field.default
        rows.append(f"  {field.name:{width}}  {field.metadata['description']} (default: {default})")
    return "\n".join(
        [
            "parameters, for --set (workspace and destination are below --output unless set):",
            *rows,
            "",
            f"stages, for --set STAGE.SETTING=VALUE: {', '.join(STAGES)}",
            "  `srpo stage NAME --settings` lists the settings of one",
            "",
            "exit codes: 0 done, 1 a stage failed, 2 bad input, 130 interrupted",
            "",
            "example: srpo run --recipe demo --set learning_rate=0 --set train.margin=0.5 --output runs/null",
        ]
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for everything the run makes")
    parser.add_argument("--recipe", default="demo", metavar="NAME", help="recipe to start from (default: demo)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a parameter or a stage's setting; repeatable"
    )


def main(args: argparse.Namespace) -> None:
    """Check everything, compile, run, and say what came of it."""
    from srpo.core.storage.files import appearing, write_json
    from srpo.core.storage.locations import destination_of
    from srpo.core.storage.stores import probe
    from srpo_pipelines.settings import parameters
    from srpo_pipelines.summary import lines, summarise
    from srpo_pipelines.terminal import Terminal
    from srpo_pipelines.watch import run_package

    folder = args.output.absolute()
    values = parameters(args.recipe, args.set, {"workspace": str(folder / "workspace"), "destination": str(folder)})
    if values.num_nodes > 1:
        raise InputError(
            f"num_nodes is {values.num_nodes}: it must be 1 on one machine (srpo submit runs on a cluster)"
        )
    require_here(values)
    folder = folder_for(folder)
    with alone_in(folder), interruptible():
        probe(destination_of(values.destination))
        package = compile_package(folder / PACKAGE, dataclasses.asdict(parameters(args.recipe)))
        terminal = Terminal(list(STAGES), values.sample_shards)
        try:
            records = run_package(package, dataclasses.asdict(values), folder, terminal)
        except KeyboardInterrupt:
            raise Failed("srpo: interrupted; what has finished is kept: run the same again to go on", 130) from None

        report = folder / "report.html"
        for record in records:
            if record["stage"] == "evaluate":
                with appearing(report) as partial:
                    partial.write_bytes((Path(record["result"]) / "report.html").read_bytes())
            if record["stage"] == "rating_page":
                put_out(Path(record["result"]), folder)
        summary, evaluation = summarise(records, values, report)
        write_json(folder / "summary.json", summary)
        print("\n".join(lines(summary, evaluation)), flush=True)


def require_here(values: Parameters) -> None:
    """Refuse what this machine lacks before models are fetched, which can take hours.

    Raises:
        InputError: a source of prompts that is not there, or more GPUs than there are.
    """
    from srpo.prepare_prompts.sources import find, is_s3

    sources = [source.strip() for source in values.prompts.split(",")]
    find(tuple(source for source in sources if not is_s3(source)))
    if values.gpus:
        import torch

        there = torch.cuda.device_count()
        if there < values.gpus:
            raise InputError(f"gpus is {values.gpus}: it must be at most {there}, the GPUs that torch finds here")


def put_out(result: Path, folder: Path) -> None:
    """Place the rating page and its key, each in a folder of its own; what else is beside the key stays."""
    import shutil

    from srpo.core.storage.files import appearing, link_tree
    from srpo_pipelines.summary import RATING, RATING_KEY

    shutil.rmtree(folder / RATING, ignore_errors=True)
    with appearing(folder / RATING) as partial:
        link_tree(result / "page", partial)
        (partial / "manifest.json").unlink(missing_ok=True)  # of the artifact: nothing for raters
    for file in (result / "key").glob("*.json"):
        if file.name != "manifest.json":
            with appearing(folder / RATING_KEY / file.name) as partial:
                partial.touch(mode=0o600)
                partial.write_bytes(file.read_bytes())


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this run: two runs would clear each other's files away."""
    import fcntl

    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--output is {str(folder)!r}, where another `srpo run` is at work") from None
        yield


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """A closed terminal and `kill` end the run like Ctrl-C does, so that no stage is left running."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell starts what runs in the background with it ignored.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
