"""The models of a run, as `fetch_base` left them in the workspace: where each lies, what it is, under which licence.

A model is a folder of the cache (``srpo.core.storage.model_cache``); ``models.json`` names it by its path, relative to
the workspace where the cache lies in it, so that the artifact means the same in every pod.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import digest_of, write_json
from srpo.core.storage.known_hashes import KnownHashes, known_hashes, memory_of
from srpo.core.storage.walk import files_below


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model of a run.

    ``path`` is absolute once read; on disk it is relative to the workspace, unless the cache lies elsewhere.
    """

    name: str
    path: str
    digest: str  # over the relative path, size and SHA-256 of every file
    licence: str
    commercial_use: bool | None = None  # whether the licence allows it; None: not stated
    source: str = ""  # where it came from, with the revision
    revision: str = ""  # of a hub: the commit
    release: dict[str, Any] | None = None  # of a base that is a release: id, digest, uri, licences, data, earlier
    positive_words: tuple[str, ...] = ()
    negative_words: tuple[str, ...] = ()
    weight: float = 1.0  # of a reward among several

    @property
    def folder(self) -> Path:
        """Where the model lies."""
        return Path(self.path)


def folder_digest(folder: Path, known: KnownHashes | None = None) -> str:
    """The content hash of a model folder; with ``known`` a file is read once, while nobody writes it."""
    hashes = known or KnownHashes({})
    files = [
        {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": hashes.sha256(path)}
        for path in sorted(files_below(folder))
    ]
    return digest_of(files)


def write_models(artifact: Path, models: dict[str, ModelEntry | None]) -> None:
    """Write ``models.json``: roles are ``base``, ``reward`` (``reward_2``, ...), ``held_out``, ``judge`` (or None)."""
    write_json(artifact / "models.json", {role: entry and dataclasses.asdict(entry) for role, entry in models.items()})


def read_models(artifact: Path, workspace: Path) -> dict[str, ModelEntry | None]:
    """The models of a run by role, with absolute paths.

    Raises:
        InputError: the artifact is not one of `fetch_base`, or a model is gone from the workspace or damaged there.
    """
    try:
        stored: dict[str, Any] = json.loads((artifact / "models.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{artifact} holds no models.json: it must be the output of fetch_base") from None
    models: dict[str, ModelEntry | None] = {}
    with known_hashes(memory_of(workspace, "fetch_base", _key_of(artifact))) as known:
        for role, values in stored.items():
            models[role] = values and _read(values, workspace, known)
    return models


def _key_of(artifact: Path) -> str:
    """The key of the result that the artifact is of; "unknown" for one that a person put together."""
    try:
        return str(json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"


def _read(values: dict[str, Any], workspace: Path, known: KnownHashes) -> ModelEntry:
    folder = workspace / values["path"]
    if not folder.is_dir():
        raise InputError(f"model {values['name']!r} is not in the cache at {folder}: run fetch_base again")
    if folder_digest(folder, known) != values["digest"]:
        raise InputError(
            f"model {values['name']!r} at {folder} is not what was fetched: run it again, and fetch_base mends it"
        )
    words = {name: tuple(values[name]) for name in ("positive_words", "negative_words")}
    return ModelEntry(**values | words | {"path": str(folder)})


def reward_roles(models: dict[str, ModelEntry | None]) -> list[str]:
    """The roles of the rewards that are trained on: ``reward``, ``reward_2``, ... in order."""
    return [role for role in models if role == "reward" or role.startswith("reward_")]


def required(models: dict[str, ModelEntry | None], role: str) -> ModelEntry:
    """The model of ``role``; raises :class:`InputError` when the run has none."""
    entry = models.get(role)
    if entry is None:
        raise InputError(f"the run has no model for the role {role!r}")
    return entry
