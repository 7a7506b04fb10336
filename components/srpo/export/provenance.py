"""What a release says about how it was made."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from srpo.core.execution.code import PACKAGE_ROOT
from srpo.core.execution.stage import read_manifest
from srpo.core.storage.models import ModelEntry

COMMIT_VARIABLE = "SRPO_GIT_COMMIT"  # set in images, which carry no repository


def stages(artifacts: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Name, configuration, key and library versions of the stage that made each artifact.

    Raises:
        InputError: an artifact that no stage finished.
    """
    kept = ("key", "config", "code", "versions")
    manifests = {name: read_manifest(path) for name, path in artifacts.items()}
    return {manifest["stage"]: {key: manifest[key] for key in kept} for manifest in manifests.values()}


def licences(models: dict[str, ModelEntry | None]) -> dict[str, dict[str, str]]:
    """Name, content hash and licence of each model that took part, by role."""
    return {
        role: {"name": entry.name, "digest": entry.digest, "licence": entry.licence}
        for role, entry in sorted(models.items())
        if entry is not None
    }


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
