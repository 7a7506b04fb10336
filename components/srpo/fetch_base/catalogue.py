"""Names of models to folders: the catalogue, or the path of a folder."""

import dataclasses
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from srpo.core.contracts.config import nearest
from srpo.core.contracts.errors import InputError

PACKAGE = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where a model comes from and what is known of it."""

    name: str
    folder: Path
    licence: str
    positive_words: tuple[str, ...] = ()
    negative_words: tuple[str, ...] = ()
    judge: Path | None = None
    weight: float = 1.0


@cache
def catalogue() -> dict[str, Any]:
    """The catalogue as it is written in ``catalogue.yaml``."""
    return dict(yaml.safe_load((Path(__file__).parent / "catalogue.yaml").read_text(encoding="utf-8")))


def find(kind: str, name: str) -> Source:
    """The source of ``name`` among ``kind`` (``base`` or ``rewards``): a catalogue name, else the path of a folder.

    Raises:
        InputError: neither is there.
    """
    entries = catalogue()[kind]
    if name in entries:
        entry = entries[name]
        return Source(
            name=name,
            folder=_folder(entry["source"]),
            licence=entry["licence"],
            positive_words=tuple(entry.get("positive_words", ())),
            negative_words=tuple(entry.get("negative_words", ())),
            judge=_folder(entry["judge"]) if "judge" in entry else None,
        )
    folder = Path(name)
    if not folder.is_dir():
        what = "model" if kind == "base" else "reward"
        raise InputError(f"{what} {name!r} is neither a folder nor a name of the catalogue{nearest(name, entries)}")
    words = catalogue()["default_words"] if kind == "rewards" else {"positive_words": (), "negative_words": ()}
    return Source(
        name=folder.name,
        folder=folder,
        licence="not stated",
        positive_words=tuple(words["positive_words"]),
        negative_words=tuple(words["negative_words"]),
    )


def _folder(source: str) -> Path:
    return PACKAGE / source.removeprefix("package:")
