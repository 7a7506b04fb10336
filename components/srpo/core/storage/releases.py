"""Releases: immutable folders that appear whole, and channels, the small files that point to one of them.

Layout below a destination::

    releases/<id>/...            written once; manifest.json, the last file of all, names every other
    channels/<name>.json         which release the channel means now, and which it meant before
"""

import dataclasses
import datetime
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import BLOCK, appearing, sha256_of, write_json

MANIFEST = "manifest.json"
RELEASE_SCHEMA = "srpo.release/1"
CHANNEL_SCHEMA = "srpo.channel/1"
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
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    # A backslash separates on other systems, and a NUL ends the name in the C library.
    if not parts or ".." in parts or parts[0].startswith("/") or set(str(name)) & {"\\", "\0"}:
        raise InputError(f"{where} names {name!r}: it must be {accepted}")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{where} names {name!r}, a link to {path.resolve()}: it must be {accepted}")
    return path


def publish(
    destination: Path,
    release: str,
    items: Iterable[Item],
    manifest: Mapping[str, Any],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Path:
    """Write the release, whole or not at all, unless it is there; returns its folder.

    ``progress`` hears how many bytes of how many are done. Every file is hashed while it is copied.

    Raises:
        InputError: a source is missing or is not what its item says; a damaged release of that name is in the way.
    """
    if not NAME.fullmatch(release):
        raise InputError(f"release {release!r}: a name must be of letters, digits, '.', '_' and '-'")
    target = destination / "releases" / release
    if target.exists():
        check_sizes(target)
        return target
    items = sorted(items, key=lambda item: item.path)
    total, done = sum(item.size for item in items), 0
    with appearing(target) as partial:
        partial.mkdir()
        for item in items:
            _write(item, inside(partial, item.path, f"release {release}"))
            done += item.size
            progress(done, total)
        files = [item.entry() for item in items]
        write_json(partial / MANIFEST, {**manifest, "schema": RELEASE_SCHEMA, "id": release, "files": files})
    return target


def _write(item: Item, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(item.source, bytes):
        path.write_bytes(item.source)
        return
    digest = hashlib.sha256()
    try:
        source = item.source.open("rb")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{item.source} is missing: it must be a file of {item.size} bytes") from None
    with source, path.open("xb") as file:
        while block := source.read(BLOCK):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != item.sha256:
        raise InputError(f"{item.source} has the SHA-256 {digest.hexdigest()}: it must be {item.sha256}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a release.

    Raises:
        InputError: the folder holds none, or one of another schema.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} is not a whole release: its {MANIFEST} cannot be read ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("schema") != RELEASE_SCHEMA:
        raise InputError(f"{folder / MANIFEST} is of another schema: it must be {RELEASE_SCHEMA!r}")
    return manifest


def check_sizes(folder: Path) -> None:
    """Raise InputError unless every file that the manifest names is there with its size (hashes are not read)."""
    for entry in read_manifest(folder)["files"]:
        path = inside(folder, entry["path"], str(folder / MANIFEST))
        if not path.is_file() or path.stat().st_size != entry["size"]:
            raise InputError(f"{path} is missing or cut: the release is damaged; remove {folder} to publish it again")


def read_channel(destination: Path, channel: str) -> dict[str, Any] | None:
    """What the channel points to, or None when nothing was ever put there.

    Raises:
        InputError: the file is damaged.
    """
    path = _channel_file(destination, channel)
    try:
        pointer = json.loads(path.read_text(encoding="utf-8"))
        if pointer["schema"] == CHANNEL_SCHEMA and NAME.fullmatch(pointer["release"]):
            return {**pointer, "history": list(pointer["history"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    raise InputError(f"{path} is damaged: it must be {CHANNEL_SCHEMA} with release and history")


def move_channel(destination: Path, channel: str, release: str) -> bool:
    """Point ``channel`` to a whole release of this destination; False when it points there already.

    ``history`` in the file holds every move, the latest last.
    """
    check_sizes(destination / "releases" / release)
    before = read_channel(destination, channel)
    if before is not None and before["release"] == release:
        return False
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    history = [*(before["history"] if before else []), {"release": release, "time": now}]
    path = _channel_file(destination, channel)
    write_json(path, {"schema": CHANNEL_SCHEMA, "release": release, "history": history})
    return True


def _channel_file(destination: Path, channel: str) -> Path:
    if not NAME.fullmatch(channel):
        raise InputError(f"channel {channel!r}: a name must be of letters, digits, '.', '_' and '-'")
    return destination / "channels" / f"{channel}.json"
