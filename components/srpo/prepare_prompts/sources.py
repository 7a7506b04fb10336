"""From what the user names to files: which there are, what each is called in the results, what it holds."""

import fnmatch
import glob
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import BinaryIO, NamedTuple

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.sources import split_weight
from srpo.core.storage import s3
from srpo.core.storage.files import digest_of, sha256_of
from srpo.core.storage.walk import check_regular, files_below
from srpo.prepare_prompts import formats
from srpo.prepare_prompts.formats import COMPRESSIONS, SUFFIXES, Row, split_suffix

TINY = "tiny"
CATEGORIES = ("anime", "concept-art", "paintings", "photo")  # of HPD: a file each
ACCEPTED = f"it must be a file ({', '.join(SUFFIXES)}, also with {' or '.join(COMPRESSIONS)}), a folder or a glob"
GLOB = "*?["


class File(NamedTuple):
    """One file of prompts."""

    name: str  # in the results; the same wherever the files lie
    source: str  # the entry of the settings that named it, without its weight
    location: str  # a path, an s3:// URI, or "tiny"


def find(sources: tuple[str, ...]) -> list[File]:
    """Every file that ``sources`` name, by name: a result does not depend on the order that they are given in.

    Raises:
        InputError: a source names nothing, or a file with an unknown suffix.
    """
    found = [(entry, *place) for source in sources for entry in [split_weight(source)[0]] for place in _places(entry)]
    names = [name for _, name, _ in found]
    # Where two files have one name, each is called as it is found.
    return sorted(
        File(location if names.count(name) > 1 else name, source, location) for source, name, location in found
    )


def fingerprint(location: str) -> str:
    """What changes when the content there does: SHA-256, or an object's ETag and size."""
    if location == TINY:
        from srpo.tiny import world

        return f"sha256 {digest_of([list(row) for row in world.prompts()])}"
    if is_s3(location):
        found = s3.head(location)
        return f"etag {found.etag}, {found.size} bytes" if found else "gone"
    return f"sha256 {sha256_of(existing(location))}"


def read(file: File, column: str | None = None) -> Iterator[Row]:
    """The prompts of ``file`` in its own order, uncleaned; see :func:`formats.read`.

    A file that is named after a category of HPD gives it to rows without one of their own.
    """
    if file.location == TINY:
        from srpo.tiny import world

        yield from (
            Row(line, row.prompt, row.id, row.category, row.split) for line, row in enumerate(world.prompts(), 1)
        )
        return
    stem = split_suffix(PurePosixPath(file.location).name)[0].lower().replace("_", "-").replace(" ", "-")
    category = stem if stem in CATEGORIES else ""
    for row in formats.read(lambda: open_bytes(file.location), file.location, column):
        yield row if row.category or not category else row._replace(category=category)


def open_bytes(location: str) -> BinaryIO:
    """The bytes of a local file or an object."""
    if is_s3(location):
        return s3.open_stream(location)
    return existing(location).open("rb")


def existing(location: str) -> Path:
    """A local file; raises :class:`InputError` where there is none."""
    if not Path(location).is_file():
        raise InputError(f"{location!r} does not exist: it must be a file")
    return Path(location)


def is_s3(location: str) -> bool:
    """Whether it lies in S3."""
    return location.startswith("s3://")


def _places(source: str) -> list[tuple[str, str]]:
    """``(name, location)`` of every file that a source names."""
    if source == TINY:
        return [(TINY, TINY)]
    places = _in_s3(source) if is_s3(source) else _on_disk(source)
    if not places:
        raise InputError(f"prompt source {source!r} holds no prompt file: {ACCEPTED} of such")
    return places


def _on_disk(source: str) -> list[tuple[str, str]]:
    path = Path(source)
    if path.is_dir():
        below = (file.relative_to(path) for file in files_below(path, hidden=False))
        files = sorted(file for file in below if _suffix(file.name))
        return [(str(Path(path.absolute().name, file)), str(path / file)) for file in files]
    if path.exists():
        check_regular(path.resolve(), ())
        _check_suffix(source)
        return [(path.name, source)]
    if any(mark in source for mark in GLOB):
        names = sorted(glob.glob(source, recursive=True))  # noqa: PTH207  (a Path has no glob of a whole path)
        return [(Path(name).name, name) for name in names if _suffix(name) and Path(name).is_file()]
    raise InputError(f"prompt source {source!r} does not exist: {ACCEPTED}, s3:// included, or {TINY!r}")


def _in_s3(source: str) -> list[tuple[str, str]]:
    bucket, key = s3.split_uri(source)
    marks = [place for place, letter in enumerate(key) if letter in GLOB]
    if key and not key.endswith("/") and not marks and s3.head(source):
        _check_suffix(source)
        return [(PurePosixPath(key).name, source)]
    # A glob is looked for below its last whole folder; its marks stay within a folder. Anything else is a folder.
    folder = key[: key.rfind("/", 0, marks[0]) + 1] if marks else key
    keys = [found.key for found in s3.list_objects(f"s3://{bucket}/{folder}") if _suffix(found.key)]
    if marks:
        keys = [one for one in keys if fnmatch.fnmatchcase(one, key) and one.count("/") == key.count("/")]
        return [(PurePosixPath(one).name, f"s3://{bucket}/{one}") for one in keys]
    above = folder.rstrip("/").rpartition("/")[0]
    below = [(one, one[len(above) :].lstrip("/")) for one in keys]
    return [(name, f"s3://{bucket}/{one}") for one, name in below if not _hidden(PurePosixPath(name))]


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _suffix(name: str) -> str:
    suffix = split_suffix(name)[1]
    return suffix if suffix in SUFFIXES else ""


def _check_suffix(source: str) -> None:
    if not _suffix(source):
        _, suffix, compression = split_suffix(PurePosixPath(source).name)
        raise InputError(f"prompt source {source!r} has the suffix {suffix + compression!r}: {ACCEPTED}")
