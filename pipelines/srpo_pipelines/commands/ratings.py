"""`srpo ratings`: take in what raters handed in, and say what they said."""

import argparse
from pathlib import Path

HELP = "Import what raters saved on the rating page, and report what they said."
TABLE = "ratings.parquet"


def epilog() -> str:
    """What stands below the options."""
    return """`import` takes all files or none, and adds to the table that is there; a rater counts once

example: srpo ratings import ann.json ben.json cho.json --study runs/demo/rating-key
         srpo ratings report runs/demo/rating-key/ratings.parquet"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two commands and their options."""
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="what")
    take = commands.add_parser(
        "import",
        help="raters' files into one table",
        description="Check the files that raters saved, and add them to the study's table of ratings.",
        epilog="example: srpo ratings import ann.json ben.json --study runs/demo/rating-key",
    )
    take.add_argument("files", type=Path, nargs="+", metavar="FILE", help="a file that the rating page saved")
    take.add_argument(
        "--study", type=Path, required=True, metavar="STUDY", help="the study's key: key.json or its folder"
    )
    take.add_argument("--output", type=Path, metavar="TABLE", help=f"the table (default: {TABLE} beside the key)")
    take.add_argument("--partial", action="store_true", help="take raters who stopped early, as far as they came")
    say = commands.add_parser(
        "report",
        help="statistics of a table",
        description="Say what people said: shares, win rates and agreement, with intervals over prompts and raters.",
        epilog="example: srpo ratings report runs/demo/rating-key/ratings.parquet --output ratings.html",
    )
    say.add_argument("table", type=Path, metavar="TABLE", help="a table that `srpo ratings import` wrote")
    say.add_argument("--output", type=Path, metavar="FILE", help="write a page (.html) or the numbers (.json) as well")


def main(args: argparse.Namespace) -> None:
    """Import or report."""
    if args.what == "import":
        take_in(args.files, args.study, args.output, args.partial)
    else:
        tell(args.table, args.output)


def take_in(files: list[Path], key: Path, output: Path | None, partial: bool) -> None:
    """Add the files to the table, all of them or none."""
    from srpo.core.contracts.errors import InputError
    from srpo.core.ratings.study import read_study
    from srpo.core.ratings.table import about, collect, read_ratings, write_ratings

    study = read_study(key)
    table = output or (key if key.is_dir() else key.parent) / TABLE
    known: list[dict[str, object]] = []
    if table.exists():
        known, owner = read_ratings(table)
        if owner.study != study.study:
            raise InputError(f"{table} is of the study {owner.study!r}: it must be of {study.study!r}, or a new file")
    rows = collect(files, study, known, partial)
    write_ratings(table, rows, about(study))
    print(f"{table}: {len({row['rater'] for row in rows})} raters, {len(rows)} answers")


def tell(table: Path, output: Path | None) -> None:
    """Print the report; write it as a page or as numbers too."""
    from srpo.core.contracts.errors import InputError
    from srpo.core.ratings.report import lines, report
    from srpo.core.ratings.summary import summarise
    from srpo.core.ratings.table import read_ratings
    from srpo.core.storage.files import write_json, write_text

    if output is not None and output.suffix not in (".html", ".json"):
        raise InputError(f"--output is {str(output)!r}: it must end with .html or .json")
    summary = summarise(*read_ratings(table))
    print("\n".join(lines(summary)))
    if output is not None and output.suffix == ".html":
        write_text(output, report(summary))
    elif output is not None:
        write_json(output, summary)
