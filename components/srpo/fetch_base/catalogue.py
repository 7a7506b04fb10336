"""The catalogue: which models a run can name, where they come from and under which licence."""

import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

from srpo.core.contracts.config import from_mapping, nearest, read_mapping
from srpo.core.contracts.errors import InputError, require

PACKAGE = Path(__file__).resolve().parents[1]
BUILT_IN = Path(__file__).parent / "catalogue.yaml"
HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^\s@]+))?")
SHA256 = re.compile(r"[0-9a-f]{64}")
Kind = Literal["base", "rewards"]
KINDS: tuple[Kind, ...] = ("base", "rewards")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """Files of one source; their names are those in the model's folder too."""

    source: str
    revision: str = ""
    files: tuple[str, ...] = ()
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        hub = HUB.fullmatch(self.source)
        known = bool(hub) or "://" not in self.source or self.source.startswith("s3://")
        accepted = "hf://ORG/REPO[@REVISION], s3://BUCKET/PREFIX or a folder"
        require(known and bool(self.source.strip()), "source", self.source, accepted)
        require(bool(hub) or not self.revision, "revision", self.revision, "left out: only a hub has revisions")
        both = hub is not None and hub["revision"] is not None and bool(self.revision)
        require(not both, "revision", self.revision, f"left out: the source {self.source!r} names one")
        for name in (*self.files, *self.sha256):
            inside = bool(name) and not name.startswith("/") and ".." not in name.split("/") and "\\" not in name
            require(inside, "files", name, "names below the source, with '/'")
        for name, value in self.sha256.items():
            require(bool(SHA256.fullmatch(value)), f"sha256 of {name}", value, "64 hexadecimal digits in lower case")

    @property
    def folder(self) -> Path | None:
        """The folder that the source is; None for a remote one."""
        return None if "://" in self.source else Path(self.source)

    @property
    def repo(self) -> tuple[str, str] | None:
        """Repository and revision on the hub; None for another source."""
        hub = HUB.fullmatch(self.source)
        return (hub["repo"], self.revision or hub["revision"] or "main") if hub else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry(Part):
    """A model of the catalogue: as its YAML says, with folders absolute."""

    licence: str
    name: str = ""
    commercial_use: bool | None = None
    gated: bool = False
    also: tuple[Part, ...] = ()
    convert: str = ""
    judge: str = ""
    positive_words: tuple[str, ...] = ()
    negative_words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            bool(self.licence.strip()), "licence", self.licence, "the name of the licence that the weights are under"
        )
        pair = bool(self.positive_words) == bool(self.negative_words)
        require(pair, "negative_words", self.negative_words, "given where positive_words are, and left out with them")
        named = [name for part in self.parts for name in part.files]
        require(not self.convert or bool(named), "convert", self.convert, "left out where no files are named")

    @property
    def parts(self) -> tuple[Part, ...]:
        """All sources, the entry's own first."""
        return (self, *self.also)

    @property
    def local(self) -> bool:
        """Whether all sources are folders: then nothing needs to be asked of a hub or a store."""
        return all(part.folder is not None for part in self.parts)


def catalogue(own: str = "") -> dict[Kind, dict[str, Entry]]:
    """Every entry by kind and name: the built-in ones, and over them those of the file ``own`` (if it is given).

    Raises:
        InputError: the file cannot be read, or one of its entries is not one.
    """
    if not own:
        return _built_in()
    given = _read(Path(own))
    return {kind: _built_in()[kind] | given[kind] for kind in KINDS}


@cache
def _built_in() -> dict[Kind, dict[str, Entry]]:
    return _read(BUILT_IN)


def _read(path: Path) -> dict[Kind, dict[str, Entry]]:
    text = read_mapping(path, "catalogue", KINDS)
    found: dict[Kind, dict[str, Entry]] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        entries = text.get(kind) or {}
        if not isinstance(entries, dict):
            raise InputError(
                f"catalogue {str(path)!r}: {kind} is {entries!r}: it must be a mapping of names to entries"
            )
        for name, values in entries.items():
            found[kind][str(name)] = _entry(str(name), values, f"catalogue {path.name}: {kind}.{name}", path.parent)
    return found


def _entry(name: str, values: Any, where: str, beside: Path) -> Entry:
    if not isinstance(values, dict):
        raise InputError(f"{where} is {values!r}: it must be a mapping with source and licence")
    if "name" in values:
        raise InputError(f"{where} has no setting 'name': it is the key of the entry")
    entry = from_mapping(Entry, values | {"name": name}, where)
    also = tuple(dataclasses.replace(part, source=_absolute(part.source, beside)) for part in entry.also)
    judge = _absolute(entry.judge, beside) if entry.judge else ""
    return dataclasses.replace(entry, source=_absolute(entry.source, beside), also=also, judge=judge)


def _absolute(source: str, beside: Path) -> str:
    if source.startswith("package:"):
        return str(PACKAGE / source.removeprefix("package:"))
    return source if "://" in source else str((beside / Path(source).expanduser()).absolute())


def find(kind: Kind, name: str, own: str = "") -> Entry:
    """The entry of ``name`` among ``kind``: a catalogue name, else the path of a folder.

    A reward without control words of its own is given those published for HPSv2.1.

    Raises:
        InputError: neither is there.
    """
    entries = catalogue(own)[kind]
    entry = entries.get(name)
    if entry is None:
        what = "model" if kind == "base" else "reward"
        if "://" in name:
            raise InputError(
                f"{what} {name!r} is no name: write an entry with that source into a catalogue of your own"
            )
        if not Path(name).is_dir():
            raise InputError(f"{what} {name!r} is neither a folder nor a name of the catalogue{nearest(name, entries)}")
        entry = Entry(source=str(Path(name).absolute()), name=Path(name).name, licence="not stated")
    if kind == "rewards" and not entry.positive_words:
        published = _built_in()["rewards"]["hpsv2.1"]
        entry = dataclasses.replace(
            entry, positive_words=published.positive_words, negative_words=published.negative_words
        )
    return entry
