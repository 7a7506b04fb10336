"""Fetch the models of a run: find each, check that it is what it should be, keep a verified copy in the workspace."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from srpo.core.backbones.pipelines import check_folder
from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import Context, Stage
from srpo.core.reports.page import page, table
from srpo.core.storage.models import ModelEntry, cache_folder, folder_digest, write_models
from srpo.fetch_base.catalogue import Source, find
from srpo.fetch_base.config import Config


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Nothing: the configuration names the sources."""


@dataclasses.dataclass(frozen=True)
class Outputs:
    """``models``: a folder with models.json, which names each model's place in the workspace."""

    models: Path
    report: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Check all sources first, then copy; a copy appears whole and verified or not at all."""
    sources = find_sources(config)
    models: dict[str, ModelEntry | None] = {"judge": None}
    for number, (role, source) in enumerate(sources.items(), start=1):
        path, digest = cache_folder(source.folder, context.workspace)
        models[role] = ModelEntry(
            name=source.name,
            path=path,
            digest=digest,
            licence=source.licence,
            positive_words=source.positive_words,
            negative_words=source.negative_words,
            weight=source.weight,
        )
        context.progress(number, len(sources), model=source.name)
    write_models(outputs.models, models)
    outputs.report.write_text(report(models), encoding="utf-8")


def find_sources(config: Config) -> dict[str, Source]:
    """The checked source of every role: base, reward, held_out and, where the base has one, judge.

    Raises:
        InputError: a source is missing or incomplete.
    """
    base = find("base", config.model)
    check_folder(base.folder)
    check_files(base.folder, "model", ("model_index.json",))
    sources = {"base": base}
    for number, (name, weight) in enumerate(config.weighted_rewards(), start=1):
        sources["reward" if number == 1 else f"reward_{number}"] = dataclasses.replace(
            find("rewards", name), weight=weight
        )
    sources["held_out"] = find("rewards", config.held_out_reward)
    trained = {source.folder.resolve() for role, source in sources.items() if role.startswith("reward")}
    if sources["held_out"].folder.resolve() in trained:
        raise InputError(
            f"held_out_reward {config.held_out_reward!r} is the folder of a reward that is trained on: it must be "
            "another one, since it is what tells a real gain from a hacked one"
        )
    for role, source in sources.items():
        if role != "base":
            check_files(source.folder, "reward", ("config.json", "preprocessor_config.json"))
    if base.judge is not None:
        sources["judge"] = dataclasses.replace(base, name=f"{base.name}-judge", folder=base.judge, judge=None)
    return sources


def check_files(folder: Path, what: str, names: tuple[str, ...]) -> None:
    """Refuse a folder without each of the JSON files ``names``, or without any safetensors below it."""
    for name in names:
        try:
            json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{what} folder {str(folder)!r} has no readable {name}") from None
    if not any(folder.rglob("*.safetensors")):
        raise InputError(f"{what} folder {str(folder)!r} holds no *.safetensors: weights must be safetensors")


def fingerprint(config: Config) -> Any:
    """The content hash of every source, so that changed weights make a new key."""
    return {role: folder_digest(source.folder) for role, source in find_sources(config).items()}


def report(models: dict[str, ModelEntry | None]) -> str:
    """A small page: role, name, licence and content hash of every model."""
    rows = [
        (role, entry.name, entry.licence, entry.digest[:16])
        for role, entry in sorted(models.items())
        if entry is not None
    ]
    return page("Models of this run", table(("role", "name", "licence", "SHA-256"), rows))


def intact(result: Path, workspace: Path) -> bool:
    """Whether every model that the result names still stands in the workspace, whole."""
    stored = json.loads((result / "models" / "models.json").read_text(encoding="utf-8"))
    entries = [entry for entry in stored.values() if entry is not None]
    return all(
        (workspace / entry["path"]).is_dir() and folder_digest(workspace / entry["path"]) == entry["digest"]
        for entry in entries
    )


STAGE = Stage(
    name="fetch_base", config=Config, inputs=Inputs, outputs=Outputs, run=run, fingerprint=fingerprint, intact=intact
)
