"""The command line `srpo`; each command is one module of ``srpo_pipelines.commands``.

Nothing heavy is imported here: `srpo --help` answers at once.
"""

import argparse
import os
import sys

from srpo.core.contracts.errors import InputError
from srpo_pipelines.commands import compile as compile_command
from srpo_pipelines.commands import doctor as doctor_command
from srpo_pipelines.commands import fetch as fetch_command
from srpo_pipelines.commands import models as models_command
from srpo_pipelines.commands import promote as promote_command
from srpo_pipelines.commands import ratings as ratings_command
from srpo_pipelines.commands import recipes as recipes_command
from srpo_pipelines.commands import releases as releases_command
from srpo_pipelines.commands import run as run_command
from srpo_pipelines.commands import schedule as schedule_command
from srpo_pipelines.commands import stage as stage_command
from srpo_pipelines.commands import submit as submit_command
from srpo_pipelines.commands import verify as verify_command
from srpo_pipelines.errors import NO_SPACE, Failed

COMMANDS = {
    "run": run_command,
    "recipes": recipes_command,
    "models": models_command,
    "compile": compile_command,
    "submit": submit_command,
    "schedule": schedule_command,
    "doctor": doctor_command,
    "stage": stage_command,
    "ratings": ratings_command,
    "promote": promote_command,
    "releases": releases_command,
    "fetch": fetch_command,
    "verify": verify_command,
}


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 a failure, 2 bad input, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="srpo",
        description="Align an image model with what people prefer (Direct-Align / SRPO).",
        epilog="example: srpo run --recipe demo --output runs/demo",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=module.epilog(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(main=module.main)
    args = parser.parse_args(argv)
    try:
        args.main(args)
    except InputError as error:
        return _say(f"srpo: {error}", 2)
    except Failed as error:
        return _say(str(error), error.code)
    except KeyboardInterrupt:
        return _say("srpo: interrupted", 130)
    except ModuleNotFoundError as error:
        return _say(f"srpo: {error}: install the project with its extras: pip install 'srpo[gpu,pipelines]'", 1)
    except BrokenPipeError:  # the reader of our output has gone, as in `srpo run --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno in NO_SPACE:
            return _say(f"srpo: no space left on the disk{f' of {error.filename}' if error.filename else ''}", 1)
        return _say(f"srpo: {error}", 1)
    return 0


def _say(message: str, code: int) -> int:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
