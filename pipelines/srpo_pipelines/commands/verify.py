"""`srpo verify`: every file of a release against its manifest."""

import argparse

from srpo_pipelines.errors import Failed

HELP = "Check every byte of a release against its manifest."


def epilog() -> str:
    """What stands below the options."""
    return """RELEASE is a destination with @channel or @id as in `srpo fetch`, a release's own folder, or what
`srpo fetch` made. A file that is missing, damaged or not in the manifest is named, and the exit code is 1.

example: srpo verify s3://models/flux@latest
         srpo verify ./flux"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("release", metavar="RELEASE", help="DESTINATION[@latest|@candidate|@ID], or a release's folder")


def main(args: argparse.Namespace) -> None:
    """Verify; raises Failed with exit code 1 where something is wrong."""
    from srpo.core.storage.consumers import find, verify
    from srpo_pipelines.transfer import bar

    with bar("verify") as progress:
        problems = verify(args.release, progress)
    if problems:
        raise Failed("\n".join([*problems, f"srpo: {args.release} is damaged: {len(problems)} of its files"]), 1)
    found = find(args.release)
    print(f"{found.where}: {found.manifest['id']}, {len(found.manifest['files'])} files, all as the manifest says")
