"""From an entry of the catalogue to a verified folder in the cache: looked up, received, converted, kept, once."""

import dataclasses
import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError, require
from srpo.core.rewards.folders import CONVERSION
from srpo.core.storage import model_cache as cached
from srpo.core.storage.files import digest_of, list_files, readable_size
from srpo.core.storage.lease import Lease, lease
from srpo.core.storage.model_cache import File
from srpo.core.storage.weights import incomplete, is_pipeline, unread
from srpo.fetch_base import mirror
from srpo.fetch_base.catalogue import Entry
from srpo.fetch_base.sources import described, get_file, list_part

VARIABLE = "SRPO_MODEL_CACHE"  # a folder: the cache of all runs, where no setting names one


@dataclasses.dataclass(frozen=True)
class Place:
    """Where models are kept, and whether anything else may be asked."""

    cache: Path
    mirror: str = ""  # an S3 prefix
    offline: bool = False


def cache_folder(setting: str) -> Path | None:
    """The cache that ``setting`` names, else the environment; None where neither does."""
    name = setting or os.environ.get(VARIABLE, "")
    return Path(name).expanduser().absolute() if name else None


@dataclasses.dataclass
class Found:
    """An entry with what its sources hold, and what came of it if it was kept already."""

    entry: Entry
    key: str
    parts: list[tuple[str, list[File]]]  # revision and files of each part
    folder: str = ""  # the digest under which it was kept
    contents: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # of that folder
    received: dict[str, str] = dataclasses.field(default_factory=dict)  # SHA-256 of each file as it came

    @property
    def size(self) -> int:
        """Bytes that the sources hold."""
        return sum(file.size for _, files in self.parts for file in files)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes this model another one: sources, revisions, sizes and announced hashes; not where it is kept."""
        parts = [
            described(part, *rest) | {"source": "" if part.folder else part.source}
            for part, rest in zip(self.entry.parts, self.parts, strict=True)
        ]
        return {"parts": parts, "convert": self.entry.convert}


def look_up(entry: Entry, place: Place) -> Found | None:
    """What the sources of ``entry`` hold: asked once and written down, unless they are folders; None when offline.

    Raises:
        InputError: a source cannot be read or lacks a file.
        OSError: the hub or the store keeps failing.
    """
    if entry.local:
        return _with_known(_ask(entry, ""), place)
    key = _remote_key(entry)
    known = _known(entry, key, place)
    if known is not None or place.offline:
        return known
    with lease(place.cache / "leases" / key, _waiting(entry)):
        known = _known(entry, key, place)
        if known is None:
            known = _ask(entry, key)
            _write(known, place)
    return known


def in_the_cache(entry: Entry, cache: Path) -> str:
    """For a reader: what the cache has of a remote entry, by its records alone (no file is read)."""
    known = _known(entry, _remote_key(entry), Place(cache))
    if known is None:
        return "no"
    if not known.folder:
        return "in part"
    return readable_size(known.size) if (cache / known.folder).is_dir() else "no"


def _remote_key(entry: Entry) -> str:
    return _key_of([[part.source, part.revision, *part.files] for part in entry.parts], entry)


def _key_of(what: Any, entry: Entry) -> str:
    """Under which the cache knows what ``entry`` holds: its sources and the version of its conversion."""
    convert = f"{entry.convert} {CONVERSION}" if entry.convert else ""
    name = "".join(sign if sign.isalnum() or sign in "._-" else "-" for sign in entry.name)[:60]
    return f"{name}-{digest_of([what, convert])[:16]}"


def _ask(entry: Entry, key: str) -> Found:
    parts = [list_part(part, bool(entry.convert)) for part in entry.parts]
    names = [file.path for _, files in parts for file in files]
    if not names:
        raise InputError(f"{entry.name!r}: {entry.source} holds no file of a model")
    if len(set(names)) != len(names):
        twice = sorted(name for name in set(names) if names.count(name) > 1)
        raise InputError(f"{entry.name!r} takes {twice[0]!r} from two sources: name the files of each")
    contents = [[file.path, file.size, file.sha256] for _, files in parts for file in files]
    return Found(entry, key or _key_of(contents, entry), parts)


def _with_known(found: Found, place: Place) -> Found:
    """``found``, with what the cache knows of it."""
    known = _known(found.entry, found.key, place)
    if known is not None:
        return dataclasses.replace(found, folder=known.folder, contents=known.contents, received=known.received)
    return found


def _known(entry: Entry, key: str, place: Place) -> Found | None:
    known = cached.known_in(place.cache, key)
    if not entry.local and not (known and known["folder"]):
        other = mirror.known_in(place.mirror, key)
        if other is not None and (known is None or known["parts"] == other["parts"]):
            known = other
    if known is None:
        return None
    parts = [(part["revision"], [File(**file) for file in part["files"]]) for part in known["parts"]]
    # A hash that the catalogue gives holds even where the entry was looked up before it did.
    for part, (_, files) in zip(entry.parts, parts, strict=True):
        for file in files:
            given = part.sha256.get(file.path)
            if given and given != (file.sha256 or known["received"].get(file.path) or given):
                raise InputError(f"{entry.name!r}: {file.path} was fetched with another SHA-256 than {given}")
    return Found(entry, key, parts, known["folder"], known["contents"], known["received"])


def _record(found: Found) -> dict[str, Any]:
    """What is written down of a model."""
    return {
        "name": found.entry.name,
        "parts": [described(part, *rest) for part, rest in zip(found.entry.parts, found.parts, strict=True)],
        "convert": found.entry.convert,
        "folder": found.folder,
        "contents": found.contents,
        "received": found.received,
    }


def _write(found: Found, place: Place) -> None:
    cached.write_known(place.cache, found.key, _record(found))


def problems(found: Found | None, place: Place) -> list[str]:
    """Why the cache does not give the model as it is: names of damaged files, or "missing"; [] when it does."""
    if found is None or not found.folder or not (place.cache / found.folder).is_dir():
        return ["missing"]
    return cached.damaged(place.cache / found.folder, found.contents)


def fetch(found: Found, place: Place, progress: Callable[[int], None] = lambda count: None) -> Found:
    """Let the cache hold the model, verified; what is there whole is left alone, and only what is not is fetched.

    ``progress`` hears how many of ``found.size`` bytes are there.

    Raises:
        InputError: no room, no right to read it, or what came is not what it should be.
        OSError: the hub or the store keeps failing; what has arrived is kept for the next call.
    """
    if not problems(found, place) and not _left(found, place):
        progress(found.size)
        return found
    with lease(place.cache / "leases" / found.key, _waiting(found.entry)) as held:
        found = _with_known(found, place)
        wrong = problems(found, place)
        if wrong:
            found = _fill(found, wrong, place, held, progress)
        for path in _left(found, place):
            shutil.rmtree(path, ignore_errors=True)
    progress(found.size)
    return found


def _left(found: Found, place: Place) -> list[Path]:
    """What is in work of this model, or was when its process was killed."""
    return list(place.cache.glob(f"partial/{found.key}*"))


def _fill(found: Found, wrong: list[str], place: Place, held: Lease, progress: Callable[[int], None]) -> Found:
    """Get what is missing, from the mirror or else from the sources, and let the model appear; under its lease."""
    tell = _checked(held, progress)
    staging = place.cache / "partial" / found.key
    if found.contents and not found.entry.convert and wrong != ["missing"]:
        _say(f"{found.entry.name}: damaged in the cache, fetched again: {', '.join(wrong)}")
        whole = {entry["path"] for entry in found.contents} - set(wrong)
        cached.reuse(place.cache / found.folder, whole, staging)
    second = "" if found.entry.local else place.mirror
    if found.folder and mirror.receive(second, found.folder, found.contents, staging, tell):
        return _keep(found, staging, place, held)
    if place.offline and not found.entry.local:
        raise InputError(missing_message([(found.entry, found, wrong)], place))
    convert = _conversion(found.entry)
    found = _receive(found, staging, place, tell)
    try:
        if convert is not None:
            staging, found = _converted(found, staging, convert)
        cached.check_weights(staging)
        if is_pipeline(staging):
            if lacking := incomplete(staging):
                where = found.entry.folder  # what was not taken over may say why
                lacking = (where and is_pipeline(where) and incomplete(where)) or lacking
                raise InputError(f"{found.entry.name!r} lacks {'; '.join(lacking)}: it must be a whole pipeline")
            check_against_classes(staging, found.entry.name)
            unopened = unread(staging)
            found.contents = [file for file in found.contents if file["path"] not in unopened]
    except InputError:  # what came is whole, and is no model: nothing to go on from
        shutil.rmtree(place.cache / "partial" / found.key, ignore_errors=True)
        raise
    found = _keep(found, staging, place, held)
    try:
        mirror.send(second, found.key, place.cache / found.folder, _record(found))
    except (InputError, OSError) as error:  # the model itself is in the cache
        _say(f"{found.entry.name}: not put into the mirror: {error}")
    return found


def check_against_classes(folder: Path, name: str, settings: Mapping[str, Any] | None = None) -> None:
    """Hold a pipeline against the classes that will load it and, with ``settings``, against what the run will do.

    Raises:
        InputError: see :mod:`srpo.fetch_base.rehearsal`.
    """
    try:
        from srpo.fetch_base.rehearsal import check_parts, rehearse
    except ModuleNotFoundError as error:
        _say(f"{name}: not held against its classes, which needs srpo[gpu] ({error})")
        return
    if settings is None:
        check_parts(folder, name)
    else:
        rehearse(folder, settings, name)


def _receive(found: Found, staging: Path, place: Place, progress: Callable[[int], None]) -> Found:
    """Every file of the sources in ``staging``, verified; ``contents`` says what they are."""
    there = sum(path.stat().st_size for path in staging.rglob("*") if path.is_file())
    cached.check_space(place.cache, found.size * (2 if found.entry.convert else 1) - there, found.entry.name)
    received, contents, done = {}, [], 0
    for part, (revision, files) in zip(found.entry.parts, found.parts, strict=True):
        for file in files:
            # Where nothing announces a hash, that of the first fetch holds.
            wanted = file if file.sha256 else dataclasses.replace(file, sha256=found.received.get(file.path, ""))
            get = functools.partial(get_file, part, revision)
            sha256 = cached.receive(wanted, get, staging / file.path, _after(done, progress))
            received[file.path] = sha256
            contents.append({"path": file.path, "size": file.size, "sha256": sha256})
            done += file.size
    contents.sort(key=lambda entry: str(entry["path"]))
    return dataclasses.replace(found, received=received, contents=contents)


def _keep(found: Found, staging: Path, place: Place, held: Lease) -> Found:
    """Write down what the model is, then let it appear: killed in between, `partial` still holds all of it."""
    held.check()
    found = dataclasses.replace(found, folder=digest_of(found.contents))
    _write(found, place)
    cached.publish(staging, found.contents, place.cache)
    return found


def _conversion(entry: Entry) -> Callable[[str, dict[str, Path], Path], None] | None:
    """What turns the released files of ``entry`` into safetensors; None where they are. The one place that needs torch.

    Raises:
        InputError: there is no such conversion, or no torch to read the files with: before anything is fetched.
    """
    if not entry.convert:
        return None
    try:
        from srpo.core.rewards.convert import CONVERSIONS, convert_reward
    except ModuleNotFoundError as error:
        raise InputError(
            f"{entry.name!r} is released in a format that torch must read ({error}): it must be fetched where "
            "the project is installed as srpo[gpu]"
        ) from None
    require(
        entry.convert in CONVERSIONS, f"convert of {entry.name!r}", entry.convert, f"one of {', '.join(CONVERSIONS)}"
    )
    return convert_reward


def _converted(
    found: Found, staging: Path, convert: Callable[[str, dict[str, Path], Path], None]
) -> tuple[Path, Found]:
    """The released files in ``staging`` as a folder of safetensors beside it."""
    folder = staging.with_name(f"{staging.name}.converted")
    shutil.rmtree(folder, ignore_errors=True)
    convert(found.entry.convert, named_for(found, staging), folder)
    contents = list_files(folder)
    unsafe = [entry["path"] for entry in contents if not File(entry["path"], 0).safe]
    if unsafe:
        raise RuntimeError(f"the conversion {found.entry.convert!r} left {unsafe[0]}: it must leave safetensors only")
    return folder, dataclasses.replace(found, contents=contents)


def named_for(found: Found, staging: Path) -> dict[str, Path]:
    """The received files as the conversion wants them: by name, and what is no safetensors as the weights (or head)."""
    kind = found.entry.convert
    files = {file.path: staging / file.path for _, files in found.parts for file in files}
    weights = [file.path for _, files in found.parts for file in files if not file.safe]
    if kind != "clip":  # a folder whose files keep their names
        if len(weights) != 1:
            raise InputError(f"{found.entry.name!r}: {kind!r} is one file of weights: it must not name {weights}")
        files["head" if kind == "aesthetic" else "weights"] = files.pop(weights[0])
    return files


def missing_message(missing: Iterable[tuple[Entry, Found | None, list[str]]], place: Place) -> str:
    """One message for all models that an offline run lacks."""
    rows = []
    for entry, found, wrong in missing:
        size = f", {readable_size(found.size)}" if found is not None else ""
        state = "" if wrong == ["missing"] else f", damaged: {', '.join(wrong)}"
        rows.append(f"{entry.name} ({entry.source}{size}{state})")
    names = " ".join(f"'{entry.name}'" for entry, _, _ in missing)
    return (
        f"offline, and not whole in the cache {place.cache}: {'; '.join(rows)}. Fetch them where there is a network: "
        f"srpo models fetch {names} --cache {place.cache}"
    )


def _checked(held: Lease, progress: Callable[[int], None]) -> Callable[[int], None]:
    def tell(count: int) -> None:
        held.check()
        progress(count)

    return tell


def _after(done: int, progress: Callable[[int], None]) -> Callable[[int], None]:
    return lambda count: progress(done + count)


def _waiting(entry: Entry) -> Callable[[str], None]:
    """Says once who else is at work."""
    told: set[str] = set()

    def tell(holder: str) -> None:
        if holder not in told:
            told.add(holder)
            _say(f"{entry.name}: {holder} is fetching it; waiting")

    return tell


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
