"""An S3 prefix as the second level of the cache: what one cluster has fetched, another takes from there, verified.

Layout: ``<prefix>/<digest>/<file>``, and ``<prefix>/known/<key>.json`` as the last object of all: a model that it names
is whole.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.storage import s3
from srpo.core.storage.files import sha256_of
from srpo.core.storage.model_cache import SCHEMA, read_known
from srpo.core.storage.upload import upload


def known_in(prefix: str, key: str) -> dict[str, Any] | None:
    """What the prefix knows under ``key``; None without a prefix, or when nothing whole is there."""
    data = s3.read_bytes(_join(prefix, "known", f"{key}.json")) if prefix else None
    known = read_known(data) if data is not None else None
    return known if known and known.get("folder") else None


def receive(
    prefix: str, digest: str, contents: list[dict[str, Any]], folder: Path, progress: Callable[[int], None]
) -> bool:
    """Fill ``folder`` from the prefix, each file verified; False when it does not hold them all, whole."""
    if not prefix:
        return False
    done = 0
    for entry in contents:
        path = folder / entry["path"]
        there = path.is_file() and path.stat().st_size == entry["size"] and sha256_of(path) == entry["sha256"]
        if not there:
            try:
                s3.download(_join(prefix, digest, entry["path"]), path, sha256=entry["sha256"])
            except InputError:
                path.unlink(missing_ok=True)
                return False
        done += entry["size"]
        progress(done)
    return True


def send(prefix: str, key: str, folder: Path, known: dict[str, Any]) -> None:
    """Let the prefix hold the model in ``folder``, the record last; what is there already is not sent again.

    Raises:
        InputError: the prefix may not be written.
        StorageError: the store kept failing; another call goes on.
    """
    if not prefix:
        return
    for entry in known["contents"]:
        uri = _join(prefix, folder.name, entry["path"])
        upload(uri, folder / entry["path"], entry["size"], entry["sha256"])
    s3.write_bytes(_join(prefix, "known", f"{key}.json"), json.dumps({"schema": SCHEMA, **known}, indent=2).encode())


def _join(prefix: str, *names: str) -> str:
    return "/".join((prefix.rstrip("/"), *names))
