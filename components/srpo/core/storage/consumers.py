"""Reading releases: list them, fetch one, verify one, go back to an earlier one, remove old ones.

Everything here starts from a destination and reads what the contract promises (docs/s3-contract.md). A manifest is not
trusted: its names are checked before anything is written, and every byte against its hash before anything appears.
"""

import datetime
import fcntl
import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import sha256_of
from srpo.core.storage.releases import (
    MANIFEST,
    NAME,
    Counter,
    check_sizes,
    inside,
    move_channel,
    parse_manifest,
    read_channel,
    read_history,
    read_release,
    require_as_pointed,
)
from srpo.core.storage.s3 import RANGE, in_order
from srpo.core.storage.stores import LocalStore, Store, open_store

LATEST = "latest"
STAGED = ".fetch"


class Found(NamedTuple):
    """A release that a user named: its store, its folder there, and its manifest."""

    store: Store
    folder: str
    manifest: dict[str, Any]
    raw: bytes  # the manifest's own bytes

    @property
    def where(self) -> str:
        """The release as a reader would write it."""
        return self.store.where(self.folder)


class Listed(NamedTuple):
    """A release as `srpo releases list` shows it."""

    release: str
    published: datetime.datetime | None  # None: it has no manifest, so it is not whole
    channels: tuple[str, ...]
    candidate: bool
    size: int
    base: str


def find(location: str) -> Found:
    """The release that ``location`` names: ``DESTINATION[@latest|@candidate|@id]``, or a release's own folder.

    Raises:
        InputError: there is no such release, or the channel points to none, or it is not what the channel was moved to.
    """
    destination, which = split_location(location)
    store = open_store(destination)
    if isinstance(store, LocalStore) and not store.folder.is_dir():
        raise InputError(f"there is no folder {store.uri!r}: it must be a destination of releases, or a release's own")
    folder, pointer = "", None
    if which or store.read(MANIFEST) is None:
        release, pointer = _resolve(destination, which or LATEST)
        folder = f"releases/{release}"
    name = f"{folder}/{MANIFEST}" if folder else MANIFEST
    raw = store.read(name)
    manifest = parse_manifest(raw, store.where(name))
    if folder and manifest.get("id") != folder.rpartition("/")[2]:
        raise InputError(
            f"{store.where(name)} is the manifest of {manifest.get('id')!r}: it must be that of its folder"
        )
    if pointer is not None:
        require_as_pointed(pointer, manifest, store.where(name))
    return Found(store, folder, manifest, raw or b"")


def split_location(location: str) -> tuple[str, str]:
    """``(destination, channel or id)``; the second is "" where none is given."""
    if Path(location).exists():  # a folder may have a "@" in its name
        return location, ""
    destination, at, which = location.rpartition("@")
    if at and NAME.fullmatch(which):
        return destination, which
    return location, ""


def _resolve(destination: str, which: str) -> tuple[str, dict[str, Any] | None]:
    """The id of the release that is meant, and the pointer of the channel by which it was found, if by one."""
    pointer = read_channel(destination, which)
    if pointer is not None:
        return str(pointer["release"]), pointer
    store = open_store(destination)
    if store.read(f"releases/{which}/{MANIFEST}") is not None:
        return which, None
    channels = ", ".join(channels_of(store)) or "none"
    accepted = f"a channel ({channels}) or the id of a whole release"
    raise InputError(f"{store.uri} has no {which!r}: it must be {accepted}")


def channels_of(store: Store) -> list[str]:
    """The names of the channels."""
    return [name[: -len(".json")] for name in store.files("channels") if "/" not in name and name.endswith(".json")]


def list_releases(destination: str) -> list[Listed]:
    """Every release, the newest first; one that is not whole has no date."""
    store = open_store(destination)
    pointers = {channel: (read_channel(destination, channel) or {}).get("release") for channel in channels_of(store)}
    found = []
    for release in store.folders("releases"):
        files = store.files(f"releases/{release}")
        channels = tuple(channel for channel, pointed in pointers.items() if pointed == release)
        size = sum(entry.size for entry in files.values())
        if MANIFEST not in files:
            found.append(Listed(release, None, channels, False, size, ""))
            continue
        manifest = read_release(destination, release)
        base = str(manifest.get("base_model", {}).get("name", ""))
        published = files[MANIFEST].modified
        found.append(Listed(release, published, channels, bool(manifest.get("candidate")), size, base))
    oldest = datetime.datetime.min.replace(tzinfo=datetime.UTC)
    return sorted(found, key=lambda entry: (entry.published or oldest, entry.release), reverse=True)


def fetch(
    location: str, folder: Path, progress: Callable[[int, int], None] = lambda done, of: None
) -> tuple[Found, bool]:
    """Make ``folder`` hold a release, whole and verified; ``(the release, False where it was there already)``.

    Files come in parallel into a hidden folder beside it, from which a later call goes on after a kill.

    Raises:
        InputError: there is no such release, a file is damaged, or ``folder`` holds something else.
        StorageError: the store kept failing.
    """
    found = find(location)
    if folder.exists() or folder.is_symlink():
        manifest = folder / MANIFEST
        if manifest.is_file() and manifest.read_bytes() == found.raw and verify(str(folder)) == []:
            return found, False
        raise InputError(f"{folder} exists and is not this release: it must be the name of a folder to make")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = folder.with_name(f".{folder.name}.{found.manifest['id']}{STAGED}")
    staging.mkdir(exist_ok=True)
    with (staging / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder} is being fetched by another process: it must be fetched once") from None
        _fetch_files(found, staging, Counter(sum(entry["size"] for entry in found.manifest["files"]), progress))
        (staging / MANIFEST).write_bytes(found.raw)
        (staging / ".lock").unlink()
        os.replace(staging, folder)
    return found, True


def _fetch_files(found: Found, staging: Path, heard: Counter) -> None:
    prefix = f"{found.folder}/" if found.folder else ""

    stored = found.store.files(found.folder)

    def get(entry: dict[str, Any]) -> None:
        there = stored.get(entry["path"])
        if there is not None and there.size != entry["size"]:
            said = f"{found.where}: {entry['path']!r} has {there.size} bytes"
            raise InputError(f"{said}: it must have the {entry['size']} that the manifest states")
        path = inside(staging, entry["path"], found.where)
        if path.is_file() and path.stat().st_size == entry["size"] and sha256_of(path) == entry["sha256"]:
            heard(entry["size"])  # an earlier try had finished it
        else:
            found.store.fetch(f"{prefix}{entry['path']}", path, entry["sha256"], heard)

    _each(found, get)
    kept = {inside(staging, entry["path"], found.where) for entry in found.manifest["files"]}
    for path in list(staging.rglob("*")):
        if not path.is_dir() and path not in kept and path.name != ".lock":
            path.unlink()


def _each(found: Found, work: Callable[[dict[str, Any]], Any]) -> None:
    """``work`` on every file: small ones side by side, big ones one after the other, each in parallel ranges."""
    files = found.manifest["files"]
    with ThreadPoolExecutor(found.store.parallel) as pool:
        list(in_order(pool, work, [entry for entry in files if entry["size"] <= RANGE]))
    for entry in files:
        if entry["size"] > RANGE:
            work(entry)


def verify(location: str, progress: Callable[[int, int], None] = lambda done, of: None) -> list[str]:
    """What is wrong with a release, in words: files that are missing, cut, changed or not named; [] when it is whole.

    Raises:
        InputError: ``location`` names no release, or its manifest cannot be used.
    """
    found = find(location)
    prefix = f"{found.folder}/" if found.folder else ""
    stored = found.store.files(found.folder)
    named = {entry["path"]: entry for entry in found.manifest["files"]}
    problems = [f"{found.where}: {name!r} is not in the manifest" for name in set(stored) - set(named) - {MANIFEST}]
    if "digest" not in found.manifest:
        problems.append(f"{found.where}: {MANIFEST!r} states no digest of itself")
    heard = Counter(sum(entry["size"] for entry in named.values()), progress)

    def check(entry: dict[str, Any]) -> None:
        name = entry["path"]
        if name not in stored:
            problems.append(f"{found.where}: {name!r} is missing")
        elif stored[name].size != entry["size"]:
            problems.append(f"{found.where}: {name!r} has {stored[name].size} bytes: it must have {entry['size']}")
        else:
            digest = hashlib.sha256()
            for data in found.store.chunks(f"{prefix}{name}"):
                digest.update(data)
                heard(len(data))
            if digest.hexdigest() != entry["sha256"]:
                problems.append(f"{found.where}: {name!r} is damaged: its SHA-256 must be {entry['sha256']}")

    _each(found, check)
    return sorted(problems)


def rollback(destination: str, channel: str, record: dict[str, Any]) -> str:
    """Point ``channel`` back to the release before; returns its id. Twice goes back two releases.

    Raises:
        InputError: the channel has no earlier release that is still whole, and still what the channel was moved to.
    """
    pointer = read_channel(destination, channel)
    if pointer is None:
        raise InputError(f"{open_store(destination).uri} has no channel {channel!r}: it must be one that exists")
    moves = {move["release"]: move for move in pointer["history"]}  # the last one to each
    for release in reversed(earlier(pointer["history"], pointer["release"])):
        try:
            require_as_pointed(moves[release], check_sizes(destination, release), release)
        except InputError:
            continue  # pruned meanwhile, or replaced
        move_channel(destination, channel, release, record, kind="rollback")
        return release
    raise InputError(f"channel {channel!r} has no release before {pointer['release']!r} that is still whole")


def earlier(history: list[dict[str, Any]], current: str) -> list[str]:
    """The releases that the channel meant before ``current``, in order, without those that were rolled back."""
    stack: list[str] = []
    for move in history:
        if move.get("kind") == "rollback" and move["release"] in stack:
            stack = stack[: len(stack) - stack[::-1].index(move["release"])]
        elif stack[-1:] != [move["release"]]:
            stack.append(move["release"])
    while current in stack:
        stack.remove(current)
    return stack


class Pruning(NamedTuple):
    """What a pruning would remove, or has removed."""

    releases: tuple[Listed, ...]
    left_overs: tuple[str, ...]  # of dead runs


def prune(destination: str, keep: int, apply: bool) -> Pruning:
    """Remove all but the ``keep`` newest releases, and what dead runs left; only say which unless ``apply``.

    What a channel points to, and what a rollback of it would go to, always stays.
    """
    store = open_store(destination)
    listed = list_releases(destination)
    whole = [entry for entry in listed if entry.published is not None]
    doomed = [entry for entry in whole[keep:] if entry.release not in _pinned(destination, store)]
    now = datetime.datetime.now(datetime.UTC)
    plan = Pruning(tuple(doomed + _dead(store, listed, now)), tuple(store.abandoned()))
    if not apply:
        return plan
    with store.exclusively():
        for entry in plan.releases:
            if entry.release in _pinned(destination, store):  # a channel moved meanwhile
                continue
            folder = f"releases/{entry.release}"
            # The manifest first: from then on the release is not there, rather than there and damaged.
            store.remove([f"{folder}/{MANIFEST}"])
            store.remove(f"{folder}/{name}" for name in store.files(folder))
        store.clear_abandoned()
    return plan


def _pinned(destination: str, store: Store) -> set[str]:
    pinned: set[str] = set()
    for channel in channels_of(store):
        pointer = read_channel(destination, channel)
        if pointer is not None:
            pinned |= {pointer["release"], *earlier(read_history(store, channel), pointer["release"])[-1:]}
    return pinned


def _dead(store: Store, listed: list[Listed], now: datetime.datetime) -> list[Listed]:
    """Releases that were begun and not finished for a day: no export will finish them."""
    day = datetime.timedelta(days=1)
    unfinished = [entry for entry in listed if entry.published is None]
    return [
        entry
        for entry in unfinished
        if all(now - file.modified > day for file in store.files(f"releases/{entry.release}").values())
    ]
