"""Whether files still are what was written: each is read and hashed once, and then known by its size, time and inode.

Sizes alone say nothing of content: a bit that flipped in a file of weights would be sampled, judged and shipped.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from srpo.core.storage.files import sha256_of, write_json


class KnownHashes:
    """SHA-256 of files by size, time of the last write and inode: a hard link of a known file is known as well."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known

    def sha256(self, path: Path) -> str:
        """The hash of a file; it is read only where it is not the file that was read before."""
        identity = self._identity(path)
        if identity not in self.known:
            self.known[identity] = sha256_of(path)
        return self.known[identity]

    def learn(self, path: Path, sha256: str) -> None:
        """Take the hash from who has just read the file."""
        self.known[self._identity(path)] = sha256

    def damaged(self, folder: Path, files: Iterable[dict[str, Any]]) -> list[str]:
        """Those of ``files`` (path, size, sha256) below ``folder`` that are missing or other than they were written."""
        return [file["path"] for file in files if not self._is(folder / file["path"], file)]

    def _is(self, path: Path, file: dict[str, Any]) -> bool:
        try:
            return path.stat().st_size == file["size"] and self.sha256(path) == file["sha256"]
        except OSError:
            return False

    @staticmethod
    def _identity(path: Path) -> str:
        stat = path.stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}"


def memory_of(workspace: Path, stage: str, key: str) -> Path:
    """Where it is written down which files of a stage's result are known, those that it left elsewhere among them."""
    return workspace / "checked" / stage / f"{key}.json"


@contextlib.contextmanager
def known_hashes(memory: Path) -> Iterator[KnownHashes]:
    """What is known by the file ``memory``; what is learnt within is written there. A damaged one is begun anew."""
    try:
        before = dict(json.loads(memory.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        before = {}
    known = KnownHashes(dict(before))
    yield known
    if known.known != before:
        write_json(memory, known.known)
