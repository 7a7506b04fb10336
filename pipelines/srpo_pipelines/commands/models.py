"""`srpo models`: the catalogue of models and their cache, for people."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srpo.core.contracts.config import nearest
from srpo.core.contracts.errors import InputError
from srpo_pipelines.errors import Failed

if TYPE_CHECKING:
    from srpo.fetch_base.catalogue import Entry
    from srpo.fetch_base.fetch import Place

HELP = "List the models that a run can name, fetch them into the cache, verify what is there."


def epilog() -> str:
    """What stands below the options."""
    return """the cache is a folder that all runs may share: --cache DIR, or SRPO_MODEL_CACHE, which runs read too
(without it, a run keeps its models in its own workspace)

gated repositories want their terms accepted on the hub's page and a token in HF_TOKEN, or in the file that
HF_TOKEN_PATH names; HF_ENDPOINT names another hub. Formats that can carry code are converted to safetensors, where
torch is installed

exit codes: 0 done, 1 fetching failed or something in the cache is damaged, 2 bad input (an unknown name, no right to
read, offline and something missing), 130 interrupted: what has arrived is kept

example: srpo models list
         export SRPO_MODEL_CACHE=~/models
         srpo models fetch black-forest-labs/FLUX.1-dev hpsv2.1 pickscore
         srpo models verify
         srpo models fetch --offline black-forest-labs/FLUX.1-dev     # is it all there?"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--catalogue", default="", metavar="FILE", help="a catalogue of your own beside the built-in one"
    )
    common.add_argument("--cache", default="", metavar="DIR", help="folder of the cache (default: $SRPO_MODEL_CACHE)")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser(
        "list",
        parents=[common],
        help="every model: licence, source, whether it is in the cache",
        epilog="example: srpo models list --cache ~/models",
    )
    fetch = actions.add_parser(
        "fetch",
        parents=[common],
        help="fetch models into the cache; what is damaged there is fetched again",
        epilog="example: srpo models fetch hpsv2.1 pickscore --cache ~/models",
    )
    fetch.add_argument("names", nargs="+", metavar="NAME", help="names of the catalogue")
    fetch.add_argument("--offline", action="store_true", help="ask nobody: say what is missing, all at once")
    fetch.add_argument("--mirror", default="", metavar="URI", help="s3://bucket/prefix as the cache's second level")
    actions.add_parser(
        "verify",
        parents=[common],
        help="read every file in the cache and compare its SHA-256",
        epilog="example: srpo models verify --cache ~/models",
    )


def main(args: argparse.Namespace) -> None:
    """Run the action."""
    from srpo.fetch_base import hub
    from srpo.fetch_base.fetch import Place, cache_folder

    cache = cache_folder(args.cache)
    if args.action == "list":
        list_models(args.catalogue, cache)
        return
    entries = named(args.names, args.catalogue) if args.action == "fetch" else []
    if cache is None:
        raise InputError("no cache is named: it must be --cache DIR or SRPO_MODEL_CACHE, which runs read too")
    if args.action == "verify":
        verify_models(cache)
    else:
        place = Place(cache, args.mirror, args.offline or hub.offline())
        fetch_models(entries, place)


def list_models(own: str, cache: Path | None) -> None:
    """Print one line a model."""
    from srpo.fetch_base.catalogue import catalogue
    from srpo.fetch_base.fetch import in_the_cache

    rows = [("NAME", "KIND", "LICENCE", "COMMERCIAL USE", "IN THE CACHE", "SOURCE")]
    for kind, entries in catalogue(own).items():
        for name, entry in entries.items():
            allowed = {True: "allowed", False: "not allowed", None: "not stated"}[entry.commercial_use]
            state = "a folder" if entry.local else in_the_cache(entry, cache) if cache else "-"
            source = f"{entry.source}{', gated' if entry.gated else ''}"
            rows.append((name, "base" if kind == "base" else "reward", entry.licence, allowed, state, source))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def named(names: Sequence[str], own: str) -> "list[Entry]":
    """The entries of ``names``, of either kind.

    Raises:
        InputError: a name is not in the catalogue.
    """
    from srpo.fetch_base.catalogue import catalogue

    known = {name: entry for entries in catalogue(own).values() for name, entry in entries.items()}
    for name in names:
        if name not in known:
            raise InputError(f"the catalogue has no model {name!r}{nearest(name, known)}")
    return [known[name] for name in dict.fromkeys(names)]


def fetch_models(entries: "list[Entry]", place: "Place") -> None:
    """Fetch each into the cache and print where it lies."""
    from srpo.core.execution.progress import Progress
    from srpo.fetch_base.fetch import fetch
    from srpo.fetch_base.run import look_up_all, progress_of

    progress = Progress("models")
    for name, found in look_up_all({entry.name: entry for entry in entries}, place).items():
        kept = fetch(found, place, progress_of(progress, name, 0, found.size))
        print(f"{name}: {place.cache / kept.folder}", flush=True)


def verify_models(cache: Path) -> None:
    """Say of each model in the cache whether it is whole.

    Raises:
        Failed: one of them is damaged.
    """
    from srpo.core.storage.model_cache import names_in, verify

    names = names_in(cache)
    found = verify(cache)
    for digest, wrong in found.items():
        name = ", ".join(names.get(digest, ["unknown"]))
        print(f"{'damaged' if wrong else 'whole'}  {digest[:16]}  {name}{': ' if wrong else ''}{', '.join(wrong)}")
    broken = [digest for digest, wrong in found.items() if wrong]
    if not found:
        print(f"{cache} holds no model")
    if broken:
        again = " ".join(f"'{name}'" for digest in broken for name in names.get(digest, []))
        hint = f"srpo models fetch {again} --cache {cache}" if again else f"remove {cache / broken[0]}"
        raise Failed(f"srpo: {len(broken)} of {len(found)} models are damaged: {hint}", 1)
