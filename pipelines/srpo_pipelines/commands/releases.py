"""`srpo releases`: list what a destination holds, go back to an earlier release, remove old ones."""

import argparse
import datetime
import getpass

from srpo.core.contracts.errors import InputError

HELP = "List releases, roll a channel back, remove old releases."


def epilog() -> str:
    """What stands below the options."""
    return """DESTINATION is s3://bucket/prefix or a folder. `prune` removes nothing unless --apply is given;
what a channel points to always stays, and so does the release that a rollback of it would go to.

example: srpo releases list s3://models/flux
         srpo releases rollback s3://models/flux --reason "hands"
         srpo releases prune s3://models/flux --keep 5 --apply"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="every release, the newest first")
    rollback = actions.add_parser("rollback", help="point a channel back to the release before")
    rollback.add_argument("--channel", default="latest", metavar="NAME", help="the channel (default: latest)")
    rollback.add_argument("--reason", default="", metavar="TEXT", help="why, for the record of the move")
    rollback.add_argument("--who", default=None, metavar="NAME", help="who, for the record (default: the login name)")
    prune = actions.add_parser("prune", help="remove all but the newest releases, and what dead runs left")
    prune.add_argument("--keep", type=int, required=True, metavar="N", help="how many of the newest to keep")
    prune.add_argument("--apply", action="store_true", help="do it; without this it is only said what would go")
    for action, parser_of_it in (("list", listing), ("rollback", rollback), ("prune", prune)):
        parser_of_it.epilog = epilog()
        parser_of_it.formatter_class = argparse.RawDescriptionHelpFormatter
        parser_of_it.add_argument("destination", metavar="DESTINATION", help="s3://bucket/prefix or a folder")
        parser_of_it.set_defaults(action=action)


def main(args: argparse.Namespace) -> None:
    """Do the action."""
    {"list": list_all, "rollback": roll_back, "prune": prune_old}[args.action](args)


def list_all(args: argparse.Namespace) -> None:
    """One line a release."""
    from srpo.core.storage.consumers import list_releases
    from srpo.core.storage.files import readable_size

    listed = list_releases(args.destination)
    if not listed:
        print(f"{args.destination} holds no release")
    for entry in listed:
        when = f"{entry.published:%Y-%m-%d %H:%M}" if entry.published else "not finished    "
        state = ", ".join(entry.channels) or ("" if entry.candidate or not entry.published else "gates failed")
        print(f"{entry.release:48}  {when}  {readable_size(entry.size):>8}  {entry.base}  {state}".rstrip())


def roll_back(args: argparse.Namespace) -> None:
    """Move the channel, with a record of who and why."""
    from srpo.core.storage.consumers import rollback

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {"action": "rollback", "who": args.who or login(), "reason": args.reason, "time": now}
    print(f"{args.channel}: {rollback(args.destination, args.channel, record)}")


def prune_old(args: argparse.Namespace) -> None:
    """Say what goes, and with --apply remove it."""
    from srpo.core.storage.consumers import prune
    from srpo.core.storage.files import readable_size

    if args.keep < 1:
        raise InputError(f"--keep is {args.keep}: it must be a whole number of at least 1")
    plan = prune(args.destination, args.keep, args.apply)
    verb = "removed" if args.apply else "would remove"
    for entry in plan.releases:
        print(f"{verb} {entry.release} ({readable_size(entry.size)}{'' if entry.published else ', not finished'})")
    for name in plan.left_overs:
        print(f"{verb} {name} (left by a dead run)")
    if not plan.releases and not plan.left_overs:
        print("nothing to remove")
    elif not args.apply:
        print("nothing was removed: give --apply to do it")


def login() -> str:
    """The name of who is at work here, for records."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in many pods
        return "unknown"
