"""The models that are compared: the base, the tuned one, and earlier releases of the same base."""

import dataclasses
import hashlib
import shutil
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.storage.consumers import Found, find
from srpo.core.storage.files import appearing, list_files
from srpo.core.storage.known_hashes import known_hashes, memory_of
from srpo.core.storage.models import ModelEntry
from srpo.core.storage.stores import LocalStore
from srpo.sample.config import Config

TRANSFORMER = "model/transformer"  # the folder of a release that holds its weights


@dataclasses.dataclass(frozen=True)
class Contender:
    """A model to sample from; ``files`` (path, size, hash of each) says which weights they are: None for the base's."""

    name: str
    weights: Path | None
    files: list[dict[str, Any]] | None


def contenders(config: Config, base: ModelEntry, checkpoint: dict[str, Any], workspace: Path) -> list[Contender]:
    """Base, tuned and each release of ``compare``, checked; the weights of those in S3 come into the workspace once.

    Raises:
        InputError: a release is missing, damaged, or was made from another base (its text embeddings would not fit).
    """
    check_trained(checkpoint, workspace)
    rivals = [
        Contender("base", None, None),
        Contender("tuned", workspace / checkpoint["weights"], checkpoint["files"]),
    ]
    releases = [(address, release_at(address)) for address in config.compare]
    for address, found in releases:  # all of them before the first is fetched
        made_from = found.manifest["base_model"]
        if made_from["digest"] != base.digest:
            raise InputError(
                f"compare names {address!r}, a release of {made_from['name']!r} ({made_from['digest'][:12]}): "
                f"it must be of this run's base, {base.name!r} ({base.digest[:12]})"
            )
    for _, found in releases:
        if found.manifest["id"] in {rival.name for rival in rivals}:
            raise InputError(f"compare names the release {found.manifest['id']!r} twice: each must be there once")
        files = transformer_files(found)
        rivals.append(Contender(found.manifest["id"], transformer_folder(found, files, workspace), files))
    return rivals


def check_trained(checkpoint: dict[str, Any], workspace: Path) -> None:
    """Raise InputError where the trained weights are not those that the training recorded."""
    weights = workspace / checkpoint["weights"]
    with known_hashes(memory_of(workspace, "train", weights.parent.name)) as known:
        for path in known.damaged(weights, checkpoint["files"]):
            raise InputError(
                f"{weights / path} is missing or not what train wrote: run it again, and train makes it anew"
            )


def release_at(address: str) -> Found:
    """The release that a user named: its folder, or ``DESTINATION@latest``, ``@candidate`` or ``@id``.

    Raises:
        InputError: there is none.
    """
    try:
        return find(address)
    except InputError as error:
        raise InputError(f"compare names {address!r}, which is no release: {error}") from None


def transformer_files(found: Found) -> list[dict[str, Any]]:
    """Path (below the transformer's folder), size and hash of each of its files, by path."""
    prefix = f"{TRANSFORMER}/"
    files = [
        {"path": entry["path"][len(prefix) :], "size": entry["size"], "sha256": entry["sha256"]}
        for entry in found.manifest["files"]
        if entry["path"].startswith(prefix)
    ]
    if not files:
        raise InputError(f"{found.where} has no {TRANSFORMER}: only a release of whole weights can be compared")
    return sorted(files, key=lambda file: file["path"])


def transformer_folder(found: Found, files: list[dict[str, Any]], workspace: Path) -> Path:
    """A local folder that holds exactly ``files``: the release's own, or a copy in the workspace of one in S3."""
    if isinstance(found.store, LocalStore):
        folder = Path(found.where) / TRANSFORMER
        if list_files(folder) != files:
            raise InputError(f"{folder} is not what the release was published with: it is damaged")
        return folder
    folder = workspace / "releases" / hashlib.sha256(found.raw).hexdigest() / TRANSFORMER
    if list_files(folder) == files:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    prefix = f"{found.folder}/" if found.folder else ""
    with appearing(folder) as partial:  # shards that fetch it at once do not meet
        for file in files:
            source = f"{prefix}{TRANSFORMER}/{file['path']}"
            found.store.fetch(source, partial / file["path"], file["sha256"], lambda count: None)
    return folder


def fingerprint(config: Config) -> Any:
    """What the releases of ``compare`` hold: a release never changes, so its manifest stands for it."""
    return [hashlib.sha256(release_at(address).raw).hexdigest() for address in config.compare] or None
