"""Local files: SHA-256, writes that appear whole or not at all, directories published by one rename."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from srpo.core.execution.alive import is_left, mark
from srpo.core.storage.walk import files_below

BLOCK = 1 << 20


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks (constant memory)."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def list_files(folder: Path) -> list[dict[str, Any]]:
    """``{"path", "size", "sha256"}`` of every file below ``folder``, by relative POSIX path, sorted.

    Raises:
        InputError: a link leads out of the folder, or something in it is no file (``srpo.core.storage.walk``).
    """
    return [of_file(path) | {"path": path.relative_to(folder).as_posix()} for path in sorted(files_below(folder))]


def of_file(path: Path) -> dict[str, Any]:
    """``{"path", "size", "sha256"}`` of one file, by its name."""
    return {"path": path.name, "size": path.stat().st_size, "sha256": sha256_of(path)}


def digest_of(value: Any) -> str:
    """Hex SHA-256 of ``value`` as canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with appearing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path`` for a file or folder; renamed to ``path`` on success, removed on failure.

    When a folder of that name has appeared meanwhile (another process made the same thing), that one is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{mark()}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        try:
            os.replace(partial, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def clear_left(folder: Path, pattern: str = ".*.partial") -> None:
    """Remove what processes that have ended left half-written in ``folder``: killed, they could not do it themselves.

    The names are those of :func:`appearing`, or end in a process's mark.
    """
    for path in folder.glob(pattern):
        marks = [part for part in path.name.split(".") if part.count("-") == 2]
        if is_left(path, marks[-1] if marks else ""):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def link_tree(source: Path, destination: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Make ``destination`` hold the files of ``source``: hard links where the file system allows, else copies.

    Files and folders that are called as one of ``leave_out`` are not taken. Only for files that nobody writes again
    (published results); ``destination`` must not exist.
    """

    def link(origin: str, target: str) -> None:
        try:
            os.link(origin, target)
        except OSError:
            shutil.copy2(origin, target)

    if source.is_dir():
        shutil.copytree(source, destination, copy_function=link, ignore=shutil.ignore_patterns(*leave_out))
    else:
        destination.parent.mkdir(parents=True, exist_ok=True)
        link(str(source), str(destination))


def readable_size(count: int) -> str:
    """Bytes in a reader's unit."""
    value, units = float(count), ["B", "KB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"
