"""The models that are compared: the base, the tuned one, and earlier releases of the same base."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import list_files
from srpo.core.storage.models import ModelEntry
from srpo.core.storage.releases import parse_manifest
from srpo.sample.config import Config

TRANSFORMER = "model/transformer"  # the folder of a release that holds its weights


@dataclasses.dataclass(frozen=True)
class Contender:
    """A model to sample from; ``files`` (path, size, hash of each) says which weights they are: None for the base's."""

    name: str
    weights: Path | None
    files: list[dict[str, Any]] | None


def contenders(config: Config, base: ModelEntry, checkpoint: dict[str, Any], workspace: Path) -> list[Contender]:
    """Base, tuned and each release of ``compare``, checked.

    Raises:
        InputError: a release is missing, damaged, or was made from another base (its text embeddings would not fit).
    """
    found = [
        Contender("base", None, None),
        Contender("tuned", workspace / checkpoint["weights"], checkpoint["files"]),
    ]
    for address in config.compare:
        release = fetch(address, workspace)
        manifest = parse_manifest(manifest_bytes(address), str(release / "manifest.json"))
        made_from = manifest["base_model"]
        if made_from["digest"] != base.digest:
            raise InputError(
                f"compare names {address!r}, a release of {made_from['name']!r} ({made_from['digest'][:12]}): "
                f"it must be of this run's base, {base.name!r} ({base.digest[:12]})"
            )
        files = list_files(release / TRANSFORMER)
        recorded = {entry["path"]: (entry["size"], entry["sha256"]) for entry in manifest["files"]}
        for file in files:
            if recorded.pop(f"{TRANSFORMER}/{file['path']}", None) != (file["size"], file["sha256"]):
                raise InputError(f"{release / TRANSFORMER / file['path']} is not what the release was published with")
        if missing := [path for path in recorded if path.startswith(f"{TRANSFORMER}/")]:
            raise InputError(f"{release / missing[0]} is missing: the release is damaged")
        if manifest["id"] in {contender.name for contender in found}:
            raise InputError(f"compare names the release {manifest['id']!r} twice: each must be there once")
        found.append(Contender(manifest["id"], release / TRANSFORMER, files))
    return found


def fingerprint(config: Config) -> Any:
    """What the releases of ``compare`` hold, by address: a release never changes, so its manifest stands for it."""
    return [[address, hashlib.sha256(manifest_bytes(address)).hexdigest()] for address in config.compare] or None


def fetch(address: str, workspace: Path) -> Path:
    """The folder of the release at ``address``."""
    return Path(address.removeprefix("file://"))


def manifest_bytes(address: str) -> bytes:
    """A release's manifest; raises InputError when it cannot be read."""
    path = Path(address.removeprefix("file://")) / "manifest.json"
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"compare names {address!r}, which is no release: {path} cannot be read ({error})") from None
