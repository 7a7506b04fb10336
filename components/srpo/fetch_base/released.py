"""A release as the base model of a run: which one is meant now, and its files with the hashes of its manifest."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.storage import consumers
from srpo.core.storage.releases import MANIFEST, RELEASE_SCHEMA
from srpo.fetch_base.catalogue import Entry, catalogue

MODEL = "model"  # the folder of a release that is a diffusers pipeline


@dataclasses.dataclass(frozen=True, kw_only=True)
class Released(Entry):
    """A base model that is a release; ``release`` is what ``models.json`` says of it."""

    release: dict[str, Any]


def names_release(name: str) -> bool:
    """Whether ``name`` is written like a release: an S3 or file URI, DESTINATION@WHICH, or a folder that holds one."""
    if "://" in name:
        return name.startswith(("s3://", "file://"))
    folder = Path(name)
    if folder.is_dir():
        return _is_release(folder) or _is_release(_above(folder)) or (folder / "releases").is_dir()
    destination, at, _ = name.rpartition("@")
    return bool(at) and Path(destination).is_dir()


def released(name: str, own: str = "", pinned: str = "", offline: bool = False) -> Released:
    """The release that ``name`` means: ``DESTINATION[@CHANNEL|@ID]``, a release's own folder, or ``model`` in it.

    Args:
        name: without a channel or an id, a destination means `latest`.
        own: a catalogue of the user's own.
        pinned: the id that ``name`` was found to mean before: taken although the channel may have moved meanwhile.
        offline: whether S3 may not be asked.

    Raises:
        InputError: there is no such release, it holds no diffusers pipeline, or only S3 could say what is meant.
        StorageError: S3 kept failing.
    """
    if offline and name.startswith("s3://"):
        raise InputError(
            f"offline, and model {name!r} is in S3: it must be a folder (fetched before: srpo fetch {name} DIR)"
        )
    folder = Path(name)
    location = str(_above(folder)) if "://" not in name and _is_release(_above(folder)) else name
    found = consumers.find(location)
    if pinned not in ("", found.manifest["id"]):
        found = consumers.find(f"{consumers.split_location(location)[0]}@{pinned}")
    manifest = found.manifest
    files = {entry["path"]: entry for entry in manifest["files"] if entry["path"].startswith(f"{MODEL}/")}
    if f"{MODEL}/model_index.json" not in files:
        formats = ", ".join(manifest.get("formats", [])) or "no weights"
        accepted = "a release with the format 'diffusers' (export.formats)"
        raise InputError(f"model {name!r}: {found.where} holds {formats}: a base must be {accepted}")
    base = manifest.get("licences", {}).get("base", {})
    start = len(MODEL) + 1
    return Released(
        name=manifest["id"],
        source=f"{found.where}/{MODEL}",
        files=tuple(path[start:] for path in files),
        sha256={path[start:]: entry["sha256"] for path, entry in files.items()},
        licence=base.get("licence") or "not stated",
        commercial_use=base.get("commercial_use"),
        judge=_judge(manifest, own),
        release={
            "id": manifest["id"],
            "digest": manifest.get("digest"),
            "uri": found.where if found.where.startswith("s3://") else None,
            "licences": manifest.get("licences", {}),
            "data": manifest.get("data", []),
            "earlier": _earlier(manifest.get("parent")),
        },
    )


def _earlier(parent: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Name and licence of each model and prompt set that the releases before this one were made with, each once."""
    if not parent:
        return []
    used = [*parent.get("licences", {}).values(), *parent.get("data", []), *parent.get("earlier", [])]
    kept = [{key: entry[key] for key in ("name", "licence", "commercial_use") if key in entry} for entry in used]
    return [entry for place, entry in enumerate(kept) if entry not in kept[:place]]


def _judge(manifest: dict[str, Any], own: str) -> str:
    """The independent judge of the model that this one was aligned from, however often: it judges this one as well."""
    name = str((manifest.get("licences", {}).get("judge") or {}).get("name", "")).removesuffix("-judge")
    entry = catalogue(own)["base"].get(name)
    return entry.judge if entry is not None else ""


def _above(folder: Path) -> Path:
    return folder.absolute().parent if folder.name == MODEL else folder


def _is_release(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["schema"] == RELEASE_SCHEMA)
    except (OSError, ValueError, KeyError, TypeError):
        return False
