"""`srpo fetch`: a release, whole and verified, in a local folder."""

import argparse
from pathlib import Path

HELP = "Fetch a release into a folder that appears whole."


def epilog() -> str:
    """What stands below the options."""
    return """RELEASE is a destination of runs (s3://bucket/prefix or a folder), with what is wanted of it after an @:
a channel (latest, candidate) or a release's id; without one it is latest. Files come in parallel, each is checked
against the manifest, and an interrupted fetch goes on where it was. boto3's own variables say how to reach S3.

example: srpo fetch s3://models/flux@latest flux
         srpo fetch runs/demo@candidate model"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("release", metavar="RELEASE", help="DESTINATION[@latest|@candidate|@ID]")
    parser.add_argument("folder", metavar="DIR", type=Path, help="the folder to make; it must not exist yet")


def main(args: argparse.Namespace) -> None:
    """Fetch, and say what and where."""
    from srpo.core.storage.consumers import fetch
    from srpo_pipelines.transfer import bar

    with bar("fetch") as progress:
        found, new = fetch(args.release, args.folder.absolute(), progress)
    print(f"{args.folder}: {found.manifest['id']} from {found.where}{'' if new else ' (was there already)'}")
