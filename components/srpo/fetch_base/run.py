"""Fetch the models of a run: find each, check that it is what it should be, keep a verified copy in the cache."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from srpo.core.backbones.pipelines import check_folder
from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import Context, Stage
from srpo.core.reports.page import page, table
from srpo.core.rewards.folders import check_reward_folder
from srpo.core.storage.known_hashes import KnownHashes
from srpo.core.storage.models import ModelEntry, folder_digest, write_models
from srpo.core.storage.walk import files_below
from srpo.fetch_base import hub
from srpo.fetch_base.catalogue import Entry, catalogue, find
from srpo.fetch_base.config import Config
from srpo.fetch_base.fetch import (
    Found,
    Place,
    cache_folder,
    check_against_classes,
    fetch,
    look_up,
    missing_message,
    problems,
)
from srpo.fetch_base.released import Released, names_release, released

MEGABYTE = 1_000_000
PAUSE = 2.0  # seconds between progress lines


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Nothing: the configuration names the sources."""


@dataclasses.dataclass(frozen=True)
class Outputs:
    """``models``: a folder with models.json, which names each model's place in the workspace."""

    models: Path
    report: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Look all sources up first, then fetch; a model appears whole and verified or not at all. The base rehearses."""
    known = (context.sources or {}).get("base", {}).get("release")  # a channel may have moved since
    sources, place = find_sources(config, known["id"] if known else ""), place_of(config, context.workspace)
    found = look_up_all(sources, place)
    total, done = sum(model.size for model in found.values()), 0
    models: dict[str, ModelEntry | None] = {"judge": None}
    for role, model in found.items():
        kept = fetch(model, place, progress_of(context.progress, model.entry.name, done, total))
        folder = place.cache / kept.folder
        for file in kept.contents:  # just verified: no later stage reads all of it for that again
            context.known.learn(folder / file["path"], file["sha256"])
        check_kept(role, folder)
        if role == "base":
            check_against_classes(folder, model.entry.name, config.rehearsal)
        done += model.size
        models[role] = ModelEntry(
            name=model.entry.name,
            path=str(folder.relative_to(context.workspace) if folder.is_relative_to(context.workspace) else folder),
            digest=kept.folder,
            licence=model.entry.licence,
            commercial_use=model.entry.commercial_use,
            source=source_of(kept),
            revision=kept.parts[0][0],
            release=release_of(model.entry),
            positive_words=model.entry.positive_words,
            negative_words=model.entry.negative_words,
            weight=trained_roles(config).get(role, ("", 1.0))[1],
        )
    write_models(outputs.models, models)
    outputs.report.write_text(report(models), encoding="utf-8")


def find_sources(config: Config, pinned: str = "") -> dict[str, Entry]:
    """The entry of every role: base, reward (reward_2, ...), held_out and, where the base has one, judge.

    Where the base is a release, ``pinned`` is the id that was found before and holds for this run.

    Raises:
        InputError: a name is not known, or a folder is incomplete.
    """
    base = find_base(config, pinned)
    sources = {"base": base}
    for role, (name, _) in trained_roles(config).items():
        sources[role] = find("rewards", name, config.catalogue)
    held_out = sources["held_out"] = find("rewards", config.held_out_reward, config.catalogue)
    if any(same(held_out, sources[role]) for role in trained_roles(config)):
        raise InputError(
            f"held_out_reward {config.held_out_reward!r} is the folder of a reward that is trained on: it must be "
            "another one, since it is what tells a real gain from a hacked one"
        )
    if base.judge:
        sources["judge"] = judge_of(base, config)
    for role, entry in sources.items():
        if entry.folder is not None and not entry.convert and not entry.also:
            check_kept(role, entry.folder)
    return sources


def find_base(config: Config, pinned: str = "") -> Entry:
    """The base model: a name of the catalogue, a release, or the folder of a pipeline."""
    if config.model not in catalogue(config.catalogue)["base"] and names_release(config.model):
        return released(config.model, config.catalogue, pinned, config.offline or hub.offline())
    return find("base", config.model, config.catalogue)


def judge_of(base: Entry, config: Config) -> Entry:
    """The judge of ``base``, under the name and the licence of the catalogue's entry that has it."""
    first = next((entry for entry in catalogue(config.catalogue)["base"].values() if entry.judge == base.judge), base)
    return Entry(
        name=f"{first.name}-judge", source=base.judge, licence=first.licence, commercial_use=first.commercial_use
    )


def release_of(entry: Entry) -> dict[str, Any] | None:
    """Which release a base model is; None for what is none."""
    return entry.release if isinstance(entry, Released) else None


def trained_roles(config: Config) -> dict[str, tuple[str, float]]:
    """Name and weight of each reward that is trained on, by role: ``reward``, ``reward_2``, ..."""
    rewards = enumerate(config.weighted_rewards(), start=1)
    return {"reward" if number == 1 else f"reward_{number}": reward for number, reward in rewards}


def same(one: Entry, other: Entry) -> bool:
    """Whether two entries name the same files."""
    places = [
        [(part.folder.resolve() if part.folder else (part.source, part.repo), part.files) for part in entry.parts]
        for entry in (one, other)
    ]
    return places[0] == places[1]


def check_kept(role: str, folder: Path) -> None:
    """Refuse a folder that lacks what the model of ``role`` is made of.

    Raises:
        InputError: a part or a JSON file is missing, or there is no safetensors below it.
    """
    what = "model" if role == "base" else "reward"
    if role == "base":
        check_folder(folder)
    elif role != "judge":
        check_reward_folder(folder)
    names = {"base": "model_index.json", "judge": "config.json"}
    name = names.get(role, "preprocessor_config.json")
    try:
        json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{what} folder {str(folder)!r} has no readable {name}") from None
    if not any(path.suffix == ".safetensors" for path in files_below(folder, hidden=False)):
        raise InputError(f"{what} folder {str(folder)!r} holds no *.safetensors: weights must be safetensors")


def place_of(config: Config, workspace: Path) -> Place:
    """Where the models of this configuration are kept."""
    cache = cache_folder(config.cache) or workspace / "models"
    return Place(cache, config.mirror, config.offline or hub.offline())


def look_up_all(sources: dict[str, Entry], place: Place) -> dict[str, Found]:
    """What every source holds; offline, all of it is in the cache.

    Raises:
        InputError: a source cannot be read; or, offline, one list of all that is missing.
    """
    found = {role: look_up(entry, place) for role, entry in sources.items()}
    if place.offline:
        missing = [
            (entry, found[role], problems(found[role], place)) for role, entry in sources.items() if not entry.local
        ]
        missing = [row for row in missing if row[2] and not (place.mirror and row[1] and row[1].folder)]
        if missing:
            raise InputError(missing_message(missing, place))
    return {role: model for role, model in found.items() if model is not None}


def lookup(config: Config, workspace: Path) -> Any:
    """What makes the models other ones: commits, hashes and sizes, and what the catalogue says of them."""
    found = look_up_all(find_sources(config), place_of(config, workspace))
    said = ("name", "licence", "commercial_use", "positive_words", "negative_words")
    return {
        role: model.identity | {field: getattr(model.entry, field) for field in said} | _which(model.entry)
        for role, model in found.items()
    }


def _which(entry: Entry) -> dict[str, Any]:
    """A release counts by its id: another one, be its weights the same, is another base."""
    release = release_of(entry)
    return {} if release is None else {"release": {name: release[name] for name in ("id", "digest")}}


def progress_of(progress: Callable[..., None], name: str, before: int, total: int) -> Callable[[int], None]:
    """Progress in megabytes over all models of the run, now and then."""
    last, told = 0.0, -1

    def tell(count: int) -> None:
        nonlocal last, told
        now, done = time.monotonic(), before + count
        if done != told and (now - last >= PAUSE or done >= total):
            last, told = now, done
            progress(done // MEGABYTE, max(1, total // MEGABYTE), model=name)

    return tell


def source_of(found: Found) -> str:
    """Where the model came from, for a reader: remote sources with their revision, folders by name only."""
    release = release_of(found.entry)
    if release is not None and release["uri"] is None:
        return f"the release {release['id']}"
    parts = zip(found.entry.parts, found.parts, strict=True)
    return ", ".join(
        "a folder" if part.folder else f"{part.source.partition('@')[0]}{f'@{revision}' if revision else ''}"
        for part, (revision, _) in parts
    )


def report(models: dict[str, ModelEntry | None]) -> str:
    """A small page: role, name, licence, source and content hash of every model."""
    rows = [
        (role, entry.name, entry.licence, ALLOWED[entry.commercial_use], entry.source, entry.digest[:16])
        for role, entry in sorted(models.items())
        if entry is not None
    ]
    return page("Models of this run", table(("role", "name", "licence", "commercial use", "source", "SHA-256"), rows))


ALLOWED = {True: "allowed", False: "not allowed", None: "not stated"}


def intact(result: Path, workspace: Path, known: KnownHashes) -> str:
    """What is wrong with the models that the result names, which stand in the cache."""
    stored = json.loads((result / "models" / "models.json").read_text(encoding="utf-8"))
    return next((wrong for entry in stored.values() if entry and (wrong := damage(entry, workspace, known))), "")


def damage(entry: dict[str, Any], workspace: Path, known: KnownHashes) -> str:
    """What is wrong with one model."""
    whole = folder_digest(workspace / entry["path"], known) == entry["digest"]
    return "" if whole else f"the model {entry['name']} in the cache is not what was fetched"


STAGE = Stage(name="fetch_base", config=Config, inputs=Inputs, outputs=Outputs, run=run, lookup=lookup, intact=intact)
