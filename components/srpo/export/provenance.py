"""What a release says about how it was made."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from srpo.core.contracts.sources import split_weight
from srpo.core.execution.code import PACKAGE_ROOT
from srpo.core.execution.stage import COMMIT_VARIABLE, MANIFEST, image, read_manifest
from srpo.core.storage.models import ModelEntry

NOT_STATED = "not stated"


def stages(artifacts: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Name, configuration, key and library versions of the stage that made each artifact.

    Raises:
        InputError: an artifact that no stage finished.
    """
    kept = ("key", "config", "code", "versions", "image")
    manifests = [read_manifest(path) for path in artifacts.values()]
    return {manifest["stage"]: {key: manifest.get(key) for key in kept} for manifest in manifests}


def before(artifacts: dict[str, Path], workspace: Path) -> dict[str, dict[str, Any]]:
    """The same of the stages whose results went into those artifacts, as far as the workspace still has them."""
    used = [key for path in artifacts.values() for key in (read_manifest(path).get("inputs") or {}).values()]
    keys = sorted({key for key in used if isinstance(key, str)})  # (of samples there are several)
    found = [place.parent for key in keys for place in sorted(workspace.glob(f"stages/*/{key}/*/{MANIFEST}"))]
    return stages({str(place): place for place in found})


def images(made: dict[str, dict[str, Any]]) -> dict[str, str | None]:
    """The image that each stage ran in, the export's too; None for what ran on a workstation, without one."""
    return {stage: entry["image"] for stage, entry in made.items()} | {"export": image()}


def base_model(base: ModelEntry) -> dict[str, Any]:
    """What was aligned; ``revision`` is the commit on its hub, "" for what comes from elsewhere."""
    return {name: getattr(base, name) for name in ("name", "digest", "source", "revision")}


def licences(models: dict[str, ModelEntry | None]) -> dict[str, dict[str, Any]]:
    """Name, content hash, licence and source of each model that took part, by role."""
    kept = ("name", "digest", "licence", "commercial_use", "source")
    return {
        role: {name: getattr(entry, name) for name in kept}
        for role, entry in sorted(models.items())
        if entry is not None
    }


def data(prompts: Path, declared: dict[str, str]) -> list[dict[str, str]]:
    """Name and licence of each source of prompts, as far as it is known."""
    known = {"tiny": "Apache-2.0"} | declared  # the embedded set is part of this project
    names = [split_weight(source)[0] for source in read_manifest(prompts)["config"]["sources"]]
    return [{"name": name, "licence": known.get(name, NOT_STATED)} for name in names]


def prompt_set(prompts: Path) -> dict[str, Any]:
    """The table of prompts: the key of its stage, and the SHA-256 of the table itself."""
    manifest = read_manifest(prompts)
    hashes = {file["path"]: file["sha256"] for file in manifest["files"]}
    return {"key": manifest["key"], "sha256": hashes.get("prompts.parquet")}


def git_commit() -> str | None:
    """The commit that the code came from, ending in "-dirty" where files were changed since; None when not known."""
    commit = os.environ.get(COMMIT_VARIABLE)
    if commit:
        return None if commit == "unknown" else commit  # an image that was built without being told
    git = shutil.which("git")
    if git is None or not (PACKAGE_ROOT.parent / ".git").exists():
        return None
    command = [git, "-C", str(PACKAGE_ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
