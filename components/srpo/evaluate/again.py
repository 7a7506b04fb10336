"""How to run it again: the settings of every stage that led here, found by their keys, as one command."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import read_manifest
from srpo.core.storage.consumers import split_location
from srpo.core.storage.files import digest_of

ORDER = ("prepare_prompts", "fetch_base", "cache_rewards", "encode_prompts", "train", "sample")
FILE = "again.json"
SHARDS = ("shard", "shards")  # who samples what; the images are the same for any number


class Made(NamedTuple):
    """A result that this evaluation rests on."""

    stage: str
    key: str
    code: str  # hash of the code that made it
    config: dict[str, Any]
    sources: Any  # what it read from outside, such as the hashes of prompt files; None where nothing
    versions: dict[str, str]  # of libraries


def lineage(folders: Iterable[Path], workspace: Path) -> list[Made]:
    """What made the artifacts in ``folders``, and what made that, in the order in which it ran; all shards are one.

    Folders that a person put together, and results that are gone from the workspace, are left out.
    """
    found: dict[str, Made] = {}
    waiting: list[str] = []

    def add(manifest: dict[str, Any]) -> None:
        if manifest["stage"] == "sample":
            manifest = of_all_shards(manifest)
        if manifest["key"] not in found:
            found[manifest["key"]] = Made(
                manifest["stage"],
                manifest["key"],
                manifest["code"],
                manifest["config"],
                manifest.get("sources"),
                manifest.get("versions") or {},
            )
            for keys in (manifest.get("inputs") or {}).values():
                waiting.extend([keys] if isinstance(keys, str) else keys)

    for folder in folders:
        try:
            add(read_manifest(folder))
        except InputError:
            continue
    while waiting:
        key = waiting.pop()
        if key not in found:
            for path in workspace.glob(f"stages/*/{key}/manifest.json"):
                add(json.loads(path.read_text(encoding="utf-8")))
    places = {stage: place for place, stage in enumerate(ORDER)}
    return sorted(found.values(), key=lambda made: (places.get(made.stage, len(ORDER)), made.stage, made.key))


def of_all_shards(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a shard, with the configuration and a key that are the same for all, whatever their number."""
    config = {name: value for name, value in manifest["config"].items() if name not in SHARDS}
    identity = {name: manifest.get(name) for name in ("stage", "code", "inputs", "sources")} | {"config": config}
    return manifest | {"config": config, "key": digest_of(identity)}


def overrides(made: Sequence[Made], evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every setting of every stage, as `srpo run` takes them; a base that is a release by its id, for channels move."""
    settings = {item.stage: dict(item.config) for item in made} | {"evaluate": evaluation}
    for item in made:
        sources = item.sources if isinstance(item.sources, dict) else {}
        release = sources.get("base", {}).get("release") if item.stage == "fetch_base" else None
        destination, which = split_location(str(item.config.get("model", "")))
        if release and which:
            settings[item.stage]["model"] = f"{destination}@{release['id']}"
    return settings


def command(made: Sequence[Made]) -> str:
    """The command that runs it again, with what :func:`overrides` gives in the file ``again.json``."""
    configs = {item.stage: item.config for item in made}
    lines = [f'srpo run --output runs/again --set "overrides=$(cat {FILE})"']
    if (seed := configs.get("train", {}).get("seed")) is not None:  # of what does not lead here, too: the rating page
        lines.append(f"--set seed={seed}")
    if configs.get("train", {}).get("device") == "cuda":
        lines.append(f"--set gpus={configs['train'].get('processes', 1)}")
    return " \\\n  ".join(lines)
