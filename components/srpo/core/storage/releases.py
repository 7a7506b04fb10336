"""Releases: immutable, whole, named by a manifest; and channels, the small files that point to one of them.

Layout below a destination, a local folder or a prefix in S3 (docs/s3-contract.md is the promise to its readers)::

    releases/<id>/...                 written once; manifest.json, the last file of all, names every other
    channels/<name>.json              which release the channel means now
    channels/<name>/history/<n>-...   every move of the channel, each a file of its own
    promotions/...                    why a release was promoted: the record that the channel points to
"""

import dataclasses
import datetime
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import digest_of, sha256_of
from srpo.core.storage.s3 import RANGE, in_order
from srpo.core.storage.stores import Store, open_store

MANIFEST = "manifest.json"
RELEASE_SCHEMA = "srpo.release/1"
CHANNEL_SCHEMA = "srpo.channel/1"
MOVE_SCHEMA = "srpo.move/1"
PROMOTION_SCHEMA = "srpo.promotion/1"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclasses.dataclass(frozen=True)
class Item:
    """A file of a release: where it goes, what it is, and where its bytes are now."""

    path: str  # relative to the release, with "/"
    size: int
    sha256: str
    source: Path | bytes

    @classmethod
    def of_file(cls, path: str, source: Path) -> "Item":
        """A file whose hash is taken now."""
        return cls(path, source.stat().st_size, sha256_of(source), source)

    @classmethod
    def of_text(cls, path: str, text: str) -> "Item":
        """A text, as UTF-8."""
        data = text.encode()
        return cls(path, len(data), hashlib.sha256(data).hexdigest(), data)

    def entry(self) -> dict[str, Any]:
        """The item as manifests name it."""
        return {"path": self.path, "size": self.size, "sha256": self.sha256}


def inside(folder: Path, name: object, where: str) -> Path:
    """The path of ``name`` below ``folder``, for names that came from a file.

    Raises:
        InputError: ``name`` is no relative path, or leads out of the folder by ``..`` or a link.
    """
    accepted = f"a path below {folder}, with neither '..' nor a leading '/'"
    path = folder.joinpath(*_parts(name, where, accepted))
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{where} names {name!r}, a link to {path.resolve()}: it must be {accepted}")
    return path


def _parts(name: object, where: str, accepted: str) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    # A backslash separates on other systems, and a NUL ends the name in the C library.
    if not parts or ".." in parts or parts[0].startswith("/") or set(str(name)) & {"\\", "\0"}:
        raise InputError(f"{where} names {name!r}: it must be {accepted}")
    return parts


def publish(
    destination: str | Path,
    release: str,
    items: Iterable[Item],
    manifest: Mapping[str, Any],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> str:
    """Write the release, whole or not at all, unless it is there; returns where it is, a path or an S3 URI.

    ``progress`` hears how many bytes of how many are done. Every file is hashed while it is copied; in S3 a try after a
    kill or a failure sends only what is missing.

    Raises:
        InputError: a source is missing or is not what its item says; a damaged release of that name is in the way.
        StorageError: S3 kept failing.
    """
    _check_name("release", release)
    store, folder = open_store(destination), f"releases/{release}"
    items = sorted(items, key=lambda item: item.path)
    manifest = {**manifest, "schema": RELEASE_SCHEMA, "id": release, "files": [item.entry() for item in items]}
    check_names(manifest, f"release {release}")
    with store.exclusively():
        if store.read(f"{folder}/{MANIFEST}") is not None:
            check_sizes(destination, release)
            return store.where(folder)
        target = store.staging(folder)
        strangers = set(store.files(target)) - {item.path for item in items}
        store.remove(f"{target}/{name}" for name in strangers)
        _put_all(store, target, items, progress)
        store.write(f"{target}/{MANIFEST}", _json(manifest | {"digest": digest_of(manifest)}))
        store.reveal(folder)
    return store.where(folder)


def _put_all(store: Store, folder: str, items: list[Item], progress: Callable[[int, int], None]) -> None:
    """Small files side by side, where the store likes that; big ones one after the other, each in parallel parts."""
    heard = Counter(sum(item.size for item in items), progress)

    def put(item: Item) -> None:
        store.put(f"{folder}/{item.path}", item.source, item.size, item.sha256, heard)

    small = [item for item in items if store.parallel > 1 and item.size <= RANGE]
    with ThreadPoolExecutor(store.parallel) as pool:
        list(in_order(pool, put, small))
    for item in items:
        if item not in small:
            put(item)


class Counter:
    """Adds up counts of bytes from many threads and reports ``(done, of)``."""

    def __init__(self, of: int, progress: Callable[[int, int], None]) -> None:
        self.done, self.of, self.progress = 0, of, progress
        self.lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self.lock:
            self.done += count
            self.progress(self.done, self.of)


def read_release(destination: str | Path, release: str) -> dict[str, Any]:
    """The manifest of a release.

    Raises:
        InputError: there is no whole release of that name, or its manifest is damaged.
    """
    _check_name("release", release)
    store, name = open_store(destination), f"releases/{release}/{MANIFEST}"
    return parse_manifest(store.read(name), store.where(name))


def parse_manifest(data: bytes | None, where: str) -> dict[str, Any]:
    """The manifest in ``data``; raises InputError unless it is one, undamaged, whose names are safe to write."""
    try:
        manifest = json.loads(data or b"")
    except ValueError as error:
        reason = "there is none" if data is None else str(error)
        raise InputError(f"{where} cannot be read: it is not a whole release ({reason})") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != RELEASE_SCHEMA:
        raise InputError(f"{where} is of another schema: it must be {RELEASE_SCHEMA!r}")
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    if "digest" in manifest and digest_of(rest) != manifest["digest"]:
        raise InputError(f"{where} is damaged: it must have the digest that it states")
    check_names(manifest, where)
    return manifest


def check_names(manifest: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless the manifest's files are relative names, each once and none a folder of another."""
    accepted = "a relative path with neither '..' nor a leading '/', once, and not the manifest itself"
    names, folders = set(), set()
    for entry in manifest["files"]:
        parts = _parts(entry["path"], where, accepted)
        name = "/".join(parts)
        if name != entry["path"] or name in names or name == MANIFEST:
            raise InputError(f"{where} names {entry['path']!r}: it must be {accepted}")
        names.add(name)
        folders |= {"/".join(parts[:count]) for count in range(1, len(parts))}
    if clash := sorted(names & folders):
        raise InputError(f"{where} names {clash[0]!r} as a file and as a folder: it must be one of them")


def check_sizes(destination: str | Path, release: str) -> dict[str, Any]:
    """The manifest; raises InputError unless every file that it names is there with its size (hashes are not read)."""
    manifest, store = read_release(destination, release), open_store(destination)
    found = store.files(f"releases/{release}")
    for entry in manifest["files"]:
        if entry["path"] not in found or found[entry["path"]].size != entry["size"]:
            name, folder = store.where(f"releases/{release}/{entry['path']}"), store.where(f"releases/{release}")
            raise InputError(f"{name} is missing or cut: the release is damaged; remove {folder} to publish it again")
    return manifest


def read_channel(destination: str | Path, channel: str) -> dict[str, Any] | None:
    """What the channel points to, or None when nothing was ever put there.

    ``release``, ``time``, ``digest`` (of the manifest), ``record`` (the name of a promotion's record, or None), and
    ``history``: every move, the latest last, each with the same and ``kind`` (move or rollback).

    Raises:
        InputError: the file is damaged.
    """
    store = open_store(destination)
    pointer = _read_pointer(store, channel)
    return None if pointer is None else {**pointer, "history": read_history(store, channel)}


def _read_pointer(store: Store, channel: str) -> dict[str, Any] | None:
    name = channel_name(channel)
    data = store.read(name)
    if data is None:
        return None
    try:
        pointer = json.loads(data)
        if pointer["schema"] == CHANNEL_SCHEMA and NAME.fullmatch(pointer["release"]) and pointer["digest"]:
            return dict(pointer)
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{store.where(name)} is damaged: it must be {CHANNEL_SCHEMA} with a release and its digest")


def require_as_pointed(pointer: Mapping[str, Any], manifest: Mapping[str, Any], where: str) -> None:
    """Raise InputError unless the manifest at ``where`` is the one that the channel was moved to, not a later one."""
    if manifest.get("digest") != pointer["digest"]:
        raise InputError(
            f"{where} is not what the channel was moved to: its digest is {manifest.get('digest')!r} and must be "
            f"{pointer['digest']!r}; whoever published it anew must move the channel anew"
        )


def read_history(store: Store, channel: str) -> list[dict[str, Any]]:
    """Every move of the channel, the earliest first."""
    folder = f"channels/{channel}/history"
    moves = []
    for name in sorted(store.files(folder)):
        move = json.loads(store.read(f"{folder}/{name}") or b"null")
        if not isinstance(move, dict) or move.get("schema") != MOVE_SCHEMA:
            raise InputError(f"{store.where(f'{folder}/{name}')} is damaged: it must be {MOVE_SCHEMA}")
        moves.append(move)
    return moves


def read_record(destination: str | Path, name: str) -> dict[str, Any]:
    """The record of a promotion, by the name that the channel gives; raises InputError where it is missing."""
    store = open_store(destination)
    data = store.read("/".join(_parts(name, "the channel", "a name below the destination")))
    if data is None:
        raise InputError(f"{store.where(name)} is missing: the channel points to it")
    return dict(json.loads(data))


def move_channel(
    destination: str | Path,
    channel: str,
    release: str,
    record: Mapping[str, Any] | None = None,
    kind: str = "move",
) -> bool:
    """Point ``channel`` to a whole release of this destination; False when it points there already.

    A release that was removed and published again under its id is another one where its manifest is another.

    ``record`` says why (ratings, gates, who; when is added). It is written first, under a name made from its content,
    then the move's line of history, then the pointer: whoever is killed in between leaves the channel where it was.

    Raises:
        InputError: the release is not whole.
    """
    manifest = check_sizes(destination, release)
    store, name = open_store(destination), channel_name(channel)
    with store.exclusively():
        before = _read_pointer(store, channel)
        named = _record_name(channel, release, record) if record is not None else None
        same = before is not None and (before["release"], before["digest"]) == (release, manifest["digest"])
        if before is not None and same and named in (None, before.get("record")):
            return False
        move = {
            "release": release,
            "digest": manifest["digest"],
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "record": named,
        }
        if record is not None and named is not None and store.read(named) is None:
            facts = {"schema": PROMOTION_SCHEMA, "channel": channel, "release": release}
            store.write(named, _json({"time": move["time"], **record, **facts}))
        # Numbered, since clocks differ; two moves at once take the same number and both stay.
        folder = f"channels/{channel}/history"
        number = max((int(file[:6]) for file in store.files(folder) if file[:6].isdigit()), default=0) + 1
        line = move | {"schema": MOVE_SCHEMA, "kind": kind, "before": before and before["release"]}
        store.write(f"{folder}/{number:06d}-{release}-{uuid.uuid4().hex[:8]}.json", _json(line))
        store.write(name, _json(move | {"schema": CHANNEL_SCHEMA}))
    return True


def channel_name(channel: str) -> str:
    """The name of a channel's file; raises InputError for what cannot be one."""
    _check_name("channel", channel)
    return f"channels/{channel}.json"


def _record_name(channel: str, release: str, record: Mapping[str, Any]) -> str:
    return f"promotions/{channel}-{release}-{digest_of(dict(record))[:12]}.json"


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(f"{what} {name!r}: a name must be of letters, digits, '.', '_' and '-'")


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
