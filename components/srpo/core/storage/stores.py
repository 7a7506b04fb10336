"""Where releases live: a local folder or a prefix in S3, behind one face.

Names are relative to the destination, with "/". What is above (releases, channels, fetching, verifying) is the same
code for both. They differ where the media do: a local folder appears by one rename and is written under a lock; in S3
an object appears whole by itself, and there is no lock, so a release is there when its manifest is.
"""

import contextlib
import datetime
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from srpo.core.contracts.errors import InputError
from srpo.core.storage import s3
from srpo.core.storage.files import BLOCK
from srpo.core.storage.locations import destination_of
from srpo.core.storage.upload import LeftOver, abort, left_overs, upload
from srpo.core.storage.walk import check_regular

INCOMING = ".incoming"
LOCK = ".publishing.lock"  # not `.lock`: that is the run's own, and a run publishes into its own folder
ABANDONED = 24 * 3600.0  # seconds after which an unfinished upload is taken for that of a dead run


class Entry(NamedTuple):
    """A file of a store."""

    size: int
    modified: datetime.datetime


class Store(Protocol):
    """What both kinds can do."""

    uri: str  # the destination as a reader would write it
    parallel: int  # files that are best read or written at once

    def where(self, name: str) -> str:
        """``name`` as a reader would write it: a path, or an S3 URI."""

    def read(self, name: str) -> bytes | None:
        """A small file, or None where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a small file; it appears whole or not at all."""

    def put(self, name: str, source: Path | bytes, size: int, sha256: str, progress: Callable[[int], None]) -> None:
        """Write a file that must have this hash; ``progress`` hears counts of bytes."""

    def files(self, folder: str) -> dict[str, Entry]:
        """Every file below ``folder``, by its name relative to it."""

    def folders(self, folder: str) -> list[str]:
        """The folders directly below ``folder``, sorted."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of a file, in pieces."""

    def fetch(self, name: str, path: Path, sha256: str, progress: Callable[[int], None]) -> None:
        """Make the local ``path`` hold a file that must have this hash; goes on where an earlier call was killed."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; those that are not there are fine."""

    def exclusively(self) -> contextlib.AbstractContextManager[None]:
        """Alone among the writers of this destination, where the medium can do that."""

    def staging(self, folder: str) -> str:
        """Where to write the files of ``folder`` before :meth:`reveal`."""

    def reveal(self, folder: str) -> None:
        """All of ``folder`` is written, its manifest last."""

    def abandoned(self) -> list[str]:
        """What dead runs left and nobody will use again, as a reader would write it."""

    def clear_abandoned(self) -> None:
        """Remove that."""


def open_store(destination: str | Path) -> Store:
    """The store of a destination: ``s3://bucket/prefix``, a ``file://`` URI, or the path of a local folder.

    Raises:
        InputError: it is none of them.
    """
    place = destination if isinstance(destination, Path) else destination_of(destination)
    return LocalStore(place.absolute()) if isinstance(place, Path) else S3Store(place)


def probe(destination: Path | str) -> None:
    """Write a small file at a destination and remove it again: what cannot be published is known before the work.

    Raises:
        InputError: it is a file, may not be written, or its credentials do not fit.
        StorageError: the store keeps failing.
    """
    store, name = open_store(destination), f"{INCOMING}/probe-{uuid.uuid4().hex}"
    try:
        store.write(name, b"")
        store.remove([name])
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        accepted = "a folder that can be written, the name of one to make, or an s3:// address"
        raise InputError(f"destination is {store.uri!r} ({error.strerror}): it must be {accepted}") from None


class LocalStore:
    """A folder. Writers take turns by a lock on a file in it, which the kernel drops when a process dies."""

    parallel = 1

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = str(folder)

    def where(self, name: str) -> str:
        return str(self._path(name))

    def read(self, name: str) -> bytes | None:
        try:
            return self._regular(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        incoming = self.folder / INCOMING
        incoming.mkdir(exist_ok=True)
        partial = incoming / uuid.uuid4().hex
        partial.write_bytes(data)
        os.replace(partial, path)
        with contextlib.suppress(OSError):  # a release that is being written keeps it
            incoming.rmdir()

    def put(self, name: str, source: Path | bytes, size: int, sha256: str, progress: Callable[[int], None]) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        _copy(_blocks(source, size), path, str(source) if isinstance(source, Path) else name, sha256)
        progress(size)

    def files(self, folder: str) -> dict[str, Entry]:
        top = self._path(folder)
        # A link is listed by its name, so that it is found out as a file that the manifest does not name.
        found = {
            path.relative_to(top).as_posix(): path for path in top.rglob("*") if path.is_symlink() or path.is_file()
        }
        return {
            name: Entry(path.lstat().st_size, datetime.datetime.fromtimestamp(path.lstat().st_mtime, datetime.UTC))
            for name, path in sorted(found.items())
        }

    def folders(self, folder: str) -> list[str]:
        top = self._path(folder)
        return sorted(path.name for path in top.iterdir() if path.is_dir()) if top.is_dir() else []

    def chunks(self, name: str) -> Iterator[bytes]:
        return _blocks(self._regular(name), 0)

    def fetch(self, name: str, path: Path, sha256: str, progress: Callable[[int], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{hashlib.sha256(path.name.encode()).hexdigest()[:12]}.download")
        _copy(_blocks(self._regular(name), 0), partial, self.where(name), sha256)
        progress(partial.stat().st_size)
        os.replace(partial, path)

    def remove(self, names: Iterable[str]) -> None:
        for path in map(self._path, names):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # folders that are not empty stay
                while path.parent != self.folder:
                    path = path.parent
                    path.rmdir()

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
            except OSError as error:  # some network file systems have no locks
                if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL):
                    raise
            yield

    def staging(self, folder: str) -> str:
        # Whoever holds the lock is alone, so all that lies here is of dead runs.
        self.clear_abandoned()
        return f"{INCOMING}/{PurePosixPath(folder).name}"

    def reveal(self, folder: str) -> None:
        target = self._path(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(self.folder / INCOMING / target.name, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise InputError(f"{target} is in the way, and no whole release: remove it to publish it again") from None
        self.clear_abandoned()

    def abandoned(self) -> list[str]:
        incoming = self.folder / INCOMING
        return sorted(str(path) for path in incoming.iterdir()) if incoming.is_dir() else []

    def clear_abandoned(self) -> None:
        shutil.rmtree(self.folder / INCOMING, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder.joinpath(*PurePosixPath(name).parts)

    def _regular(self, name: str) -> Path:
        """The file ``name`` to be read: one of this folder, and no link that leads elsewhere, no pipe, no device."""
        path, root = self._path(name), self.folder.resolve()
        target = path.resolve()
        if not target.is_relative_to(root):
            raise InputError(f"{path} leads to {target}: a file of {self.uri} must lie in it")
        return check_regular(path, (root,)) if path.exists() else path


class S3Store:
    """A prefix of a bucket."""

    parallel = s3.PARALLEL

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def where(self, name: str) -> str:
        return f"{self.uri}/{name}" if name else self.uri

    def read(self, name: str) -> bytes | None:
        return s3.read_bytes(self.where(name))

    def write(self, name: str, data: bytes) -> None:
        s3.write_bytes(self.where(name), data, ContentType="application/json")

    def put(self, name: str, source: Path | bytes, size: int, sha256: str, progress: Callable[[int], None]) -> None:
        upload(self.where(name), source, size, sha256, progress)

    def files(self, folder: str) -> dict[str, Entry]:
        top = self.where(folder)
        start = len(s3.split_uri(top)[1]) + 1
        return {found["Key"][start:]: Entry(found["Size"], found["LastModified"]) for found in s3.listing(top)}

    def folders(self, folder: str) -> list[str]:
        return sorted(s3.list_folders(self.where(folder)))

    def chunks(self, name: str) -> Iterator[bytes]:
        return s3.chunks(self.where(name))

    def fetch(self, name: str, path: Path, sha256: str, progress: Callable[[int], None]) -> None:
        s3.download(self.where(name), path, progress, sha256)

    def remove(self, names: Iterable[str]) -> None:
        s3.delete([self.where(name) for name in names])

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        yield

    def staging(self, folder: str) -> str:
        return folder

    def reveal(self, folder: str) -> None:
        # The release is whole: whatever is still being uploaded below it is the same bytes again.
        where = self.where(folder)
        abort(where, left_overs(where))
        self.clear_abandoned()

    def abandoned(self) -> list[str]:
        bucket, _ = s3.split_uri(self.uri)
        return [f"s3://{bucket}/{entry.key}" for entry in self._old()]

    def clear_abandoned(self) -> None:
        abort(self.uri, self._old())

    def _old(self) -> list[LeftOver]:
        return [entry for entry in left_overs(self.where("releases")) if entry.age > ABANDONED]


def _blocks(source: Path | bytes, size: int) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    try:
        file = source.open("rb")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{source} is missing: it must be a file of {size} bytes") from None
    with file:
        while block := file.read(BLOCK):
            yield block


def _copy(blocks: Iterator[bytes], path: Path, name: str, sha256: str) -> None:
    """Write ``blocks``, hashed on their way; ``path`` may hold anything when that fails."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks:
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != sha256:
        raise InputError(f"{name} has the SHA-256 {digest.hexdigest()}: it must be {sha256}")
