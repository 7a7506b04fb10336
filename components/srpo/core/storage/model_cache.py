"""The cache of models on a volume that several pods use at once: folders that lie under the hash of their content.

Layout::

    <digest>/            a model, whole: it appeared by one rename, verified
    known/<key>.json     what a source was found to hold (commit, sizes, hashes) and which <digest> came of it
    partial/<key>/       what has arrived of a model; only the holder of the lease writes it
    leases/<key>         who is at work: srpo.core.storage.lease

A model is safetensors, JSON and text: formats that can carry code are not kept.
"""

import dataclasses
import errno
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import BLOCK, digest_of, list_files, readable_size, sha256_of, write_json
from srpo.core.storage.tensor_files import Spec, is_finite, read_header
from srpo.core.storage.weights import incomplete, is_pipeline

SCHEMA = "srpo.model/1"
# Weights that are numbers alone, and text (`.model` is SentencePiece's vocabulary). Neither pickles nor programs, nor
# what other frameworks keep beside the same weights.
SAFE = {".safetensors", ".json", ".txt", ".md", ".model", ".jinja", ".yaml", ".yml", ""}
TRIES = 3  # at a file that arrives with another hash

Get = Callable[["File", Path, Callable[[int], None]], None]


@dataclasses.dataclass(frozen=True)
class File:
    """A file that a model is made of, with whatever is known of its content; "" is unknown."""

    path: str  # relative to the model's folder, with "/"
    size: int
    sha256: str = ""
    git: str = ""  # SHA-1 of Git's blob: how a hub identifies small files
    etag: str = ""  # of S3: says that an object changed, not what it holds

    @property
    def safe(self) -> bool:
        """Whether its format is one that holds no code."""
        return Path(self.path).suffix.lower() in SAFE


def damaged(folder: Path, contents: Iterable[dict[str, Any]]) -> list[str]:
    """Names of files in ``folder`` that are missing, too many, or other than ``contents`` (of ``list_files``) says."""
    expected = {entry["path"]: entry for entry in contents}
    # NFS keeps a removed file under a name of its own while another machine reads it.
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".nfs"))
    there = {path.relative_to(folder).as_posix() for path in files}
    wrong = set(expected) ^ there
    for name in set(expected) & there:
        path, entry = folder / name, expected[name]
        if path.stat().st_size != entry["size"] or sha256_once(path) != entry["sha256"]:
            wrong.add(name)
    return sorted(wrong)


def sha256_once(path: Path) -> str:
    """The SHA-256 of a file, read once by a process while the file is not written: weights are looked at repeatedly."""
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, *identity: int) -> str:
    return sha256_of(path)


def check_space(cache: Path, needed: int, name: str) -> None:
    """Raise InputError when the volume of ``cache`` has less than ``needed`` bytes left for the model ``name``."""
    cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise InputError(
            f"the cache {cache} has {readable_size(free)} left and {name!r} needs {readable_size(needed)}: make room, "
            "or name another place"
        )


def receive(file: File, get: Get, path: Path, progress: Callable[[int], None]) -> str:
    """Make ``path`` hold ``file``, verified, continuing what it holds already; returns its SHA-256.

    ``progress`` hears how many bytes of the file are there.

    Raises:
        InputError: it kept arriving with another hash, or holds a weight that is not finite.
        OSError: the source keeps failing, or the disk is full: then the half file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    found = ""
    for _ in range(TRIES):
        try:
            if not path.is_file() or path.stat().st_size != file.size:
                get(file, path, progress)
            found, git, strange = hashes(path)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                path.unlink(missing_ok=True)
                raise OSError(error.errno, f"no space left for {file.path} of {file.size} bytes", str(path)) from None
            raise
        if path.stat().st_size == file.size and file.sha256 in ("", found) and file.git in ("", git):
            if strange:
                path.unlink()
                raise InputError(f"{file.path}: {strange!r} has a number that is infinite or none: all must be finite")
            progress(file.size)
            return found
        path.unlink()
    wanted = f"the SHA-256 {file.sha256}" if file.sha256 else f"the Git blob {file.git}"
    raise InputError(f"{file.path} keeps arriving as another file (SHA-256 {found}): it must have {wanted}")


def hashes(path: Path) -> tuple[str, str, str]:
    """Hex SHA-256 of a file, SHA-1 of it as Git's blob, and the first tensor that is not finite, "" for none."""
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    strange = ""
    for block, tensor in _blocks(path):
        sha256.update(block)
        git.update(block)
        if tensor is not None and not strange and not is_finite(block, tensor.dtype):
            strange = tensor.name
    return sha256.hexdigest(), git.hexdigest(), strange


def _blocks(path: Path) -> Iterator[tuple[bytes, Spec | None]]:
    """The bytes of a file in order, some at a time, and of safetensors the tensor that each piece is of."""
    try:
        tensors = read_header(path) if path.suffix == ".safetensors" else []
    except InputError:  # another check says what it is in its place
        tensors = []
    with path.open("rb") as file:
        for tensor, start in sorted(tensors, key=lambda found: found[1]):
            while (left := start - file.tell()) > 0 and (block := file.read(min(BLOCK, left))):
                yield block, None
            while (left := start + tensor.size - file.tell()) > 0 and (block := file.read(min(BLOCK, left))):
                yield block, tensor
        while block := file.read(BLOCK):
            yield block, None


def publish(folder: Path, contents: list[dict[str, Any]], cache: Path) -> str:
    """Let the whole model in ``folder`` appear in the cache, in place of a damaged one if need be; returns its digest.

    ``contents`` is what ``folder`` holds, as ``list_files`` gives it; anything else in it is removed.
    """
    expected = {entry["path"] for entry in contents}
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in expected:
            path.unlink()
    digest = digest_of(contents)
    target, aside = cache / digest, folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    if target.is_dir() and not damaged(target, contents):  # the same model under another name
        shutil.rmtree(folder)
        return digest
    if target.exists():
        target.rename(aside)
    folder.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
    return digest


def reuse(source: Path, names: Iterable[str], folder: Path) -> None:
    """Let ``folder`` have the files ``names`` of ``source``, unless it has them: hard links where there are such."""
    for name in names:
        path = folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source / name, path)
            except OSError:
                shutil.copyfile(source / name, path)


def check_weights(folder: Path) -> None:
    """Raise InputError for a safetensors file below ``folder`` that is none, naming what it is where that is known."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.rglob("*.safetensors")):
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path} is {_kind_of(path)}: it must be safetensors ({error})") from None


def _kind_of(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if head.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml"):
        return "a web page, as a login or an error sends it"
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS without the weights"
    return "damaged or of another format"


def read_known(text: str | bytes) -> dict[str, Any] | None:
    """A file of ``known/``; None where it is damaged or of another schema."""
    try:
        known = json.loads(text)
        return dict(known) if known["schema"] == SCHEMA else None
    except (ValueError, KeyError, TypeError):
        return None


def known_in(cache: Path, key: str) -> dict[str, Any] | None:
    """What the cache knows under ``key``, or None."""
    try:
        return read_known((cache / "known" / f"{key}.json").read_bytes())
    except FileNotFoundError:
        return None


def write_known(cache: Path, key: str, known: dict[str, Any]) -> None:
    """Write it down, whole or not at all."""
    write_json(cache / "known" / f"{key}.json", {"schema": SCHEMA, **known})


def names_in(cache: Path) -> dict[str, list[str]]:
    """The names under which each model of the cache was fetched, by its digest."""
    names: dict[str, list[str]] = {}
    for path in sorted(cache.glob("known/*.json")):
        record = read_known(path.read_bytes()) or {}
        if record.get("folder") and record["name"] not in names.setdefault(record["folder"], []):
            names[record["folder"]].append(record["name"])
    return names


def verify(cache: Path) -> dict[str, list[str]]:
    """Every model of the cache by its digest, with the names of its damaged files, and what it lacks to be loaded.

    Of a model that is not known all files count as damaged, unless they have the digest together.
    """
    known = {}
    for path in sorted(cache.glob("known/*.json")):
        record = read_known(path.read_bytes()) or {}
        if record.get("folder"):
            known[record["folder"]] = record["contents"]
    found = {}
    for folder in sorted(path for path in cache.glob("[0-9a-f]*") if len(path.name) == 64 and path.is_dir()):
        if folder.name in known:
            found[folder.name] = damaged(folder, known[folder.name])
        else:
            contents = list_files(folder)
            found[folder.name] = [] if digest_of(contents) == folder.name else [entry["path"] for entry in contents]
        found[folder.name] += incomplete(folder) if is_pipeline(folder) else []
    return found
