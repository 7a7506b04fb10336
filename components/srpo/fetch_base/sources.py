"""What a source of the catalogue holds, and one file of it: folders, S3 prefixes, the hub."""

import fnmatch
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.storage import s3
from srpo.core.storage.model_cache import File, sha256_once
from srpo.core.storage.walk import files_below
from srpo.core.storage.weights import is_pipeline, unread
from srpo.fetch_base import hub
from srpo.fetch_base.catalogue import Part


def list_part(part: Part, convert: bool) -> tuple[str, list[File]]:
    """The revision and the files of ``part`` that belong to the model, by name, with all that is known of each.

    With ``convert`` files of formats that can carry code are taken where they are named; a pattern never takes them.

    Raises:
        InputError: the source cannot be read, or lacks a file that is named.
    """
    revision = ""
    if part.folder is not None:
        there = _of_folder(part.folder, part.files)
    elif part.repo is not None:
        revision, listed = hub.list_files(*part.repo)
        there = [File(**file) for file in listed]
    else:
        prefix = s3.split_uri(part.source)[1].rstrip("/")
        skip = len(prefix) + 1 if prefix else 0
        there = [File(found.key[skip:], found.size, etag=found.etag) for found in s3.list_objects(part.source)]
    for file in there:  # names come from a server
        if file.path.startswith("/") or ".." in file.path.split("/") or set(file.path) & {"\\", "\0"}:
            raise InputError(f"{part.source} lists a file {file.path!r}: its name must be one below the source")
    by_name = {file.path: file for file in there}
    for name in part.files:
        if not _is_pattern(name) and name not in by_name:
            raise InputError(f"{part.source} has no file {name!r}: it must have it")
        if not _is_pattern(name) and not by_name[name].safe and not convert:
            raise InputError(f"{part.source}: {name!r} can carry code: it must be safetensors, or have a `convert`")
    named = {name for name in part.files if not _is_pattern(name)}
    wanted = [file for file in there if file.path in named or (file.safe and _matches(file.path, part.files))]
    return revision, [_pinned(file, part) for file in sorted(wanted, key=lambda file: file.path)]


def get_file(part: Part, revision: str, file: File, path: Path, progress: Callable[[int], None]) -> None:
    """Make ``path`` hold ``file`` of ``part``; what is there of it already is continued where the source can."""
    if part.folder is not None:
        shutil.copyfile(part.folder / file.path, path)
    elif part.repo is not None:
        hub.download(part.repo[0], revision, {"path": file.path, "size": file.size}, path, progress)
    else:
        uri, arrived = f"{part.source.rstrip('/')}/{file.path}", 0

        def count(more: int) -> None:
            nonlocal arrived
            arrived += more
            progress(arrived)

        found = s3.head(uri)
        if found is not None and file.etag and found.etag != file.etag:
            raise InputError(f"{uri} is another object than at the first fetch: give what changed a name of its own")
        s3.download(uri, path, count)


def _of_folder(folder: Path, patterns: tuple[str, ...]) -> list[File]:
    if not folder.is_dir():
        raise InputError(f"source {str(folder)!r} is no folder: it must be one that can be read")
    found = []
    skipped = unread(folder) if is_pipeline(folder) else set()  # (a stale file of 24 GB is not even hashed)
    hidden = any(part.startswith(".") for name in patterns for part in name.split("/"))
    for path in files_below(folder, hidden):
        name = path.relative_to(folder).as_posix()
        if name in skipped and name not in patterns:
            continue
        if name in patterns or (not _is_hidden(name) and File(name, 0).safe):
            found.append(File(name, path.stat().st_size, sha256_once(path)))
    return found


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _pinned(file: File, part: Part) -> File:
    """``file`` with the hash that the catalogue gives; raises where another one is known already."""
    given = part.sha256.get(file.path, "")
    if given and file.sha256 not in ("", given):
        raise InputError(f"{file.path} of {part.source} has the SHA-256 {file.sha256}: it must have {given}")
    return File(file.path, file.size, given or file.sha256, file.git, file.etag)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    if not patterns:
        return not _is_hidden(name)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns if _is_pattern(pattern))


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?")


def described(part: Part, revision: str, files: list[File]) -> dict[str, Any]:
    """A part as the cache writes it down."""
    known = [{key: value for key, value in vars(file).items() if value or key == "size"} for file in files]
    return {"source": part.source, "revision": revision, "files": known}
