"""Publish the tuned model as a release, and make it the candidate when its evaluation passed."""

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import Context, Stage
from srpo.core.storage.files import digest_of, write_json, write_text
from srpo.core.storage.known_hashes import KnownHashes
from srpo.core.storage.locations import destination_of
from srpo.core.storage.models import read_models, required
from srpo.core.storage.releases import Item, move_channel, publish
from srpo.core.storage.stores import open_store
from srpo.export import provenance
from srpo.export.card import call_arguments, model_card, release_report
from srpo.export.config import Config
from srpo.export.contents import (
    gate_failures,
    pipeline_of,
    rating_items,
    read_evaluation,
    read_json,
    sample_pairs,
    weight_items,
)

CHANNEL = "candidate"  # `latest` is moved by a promotion alone, after people have judged
CHECKPOINT_KEYS = {"weights": str, "files": list, "step": int, "kind": str}


@dataclass(frozen=True)
class Inputs:
    """The artifacts of a whole run."""

    models: Path
    checkpoint: Path
    evaluation: Path
    samples: tuple[Path, ...]
    prompts: Path
    rating_page: Path | None = None  # what raters open, never its key


@dataclass(frozen=True)
class Outputs:
    """``release``: a folder with release.json: id, uri, path, candidate and, if not, the reason."""

    release: Path
    report: Path


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """List what belongs into the release, name it by that, publish it, and move the channel if the gates allow."""
    destination = usable(config.destination)
    evaluation = read_evaluation(inputs.evaluation)
    refusal = gate_failures(evaluation)
    models = read_models(inputs.models, context.workspace)
    base = required(models, "base")
    required(models, "reward")
    licences, data = provenance.licences(models), provenance.data(inputs.prompts, config.prompt_licences)
    checkpoint = read_json(inputs.checkpoint / "checkpoint.json", CHECKPOINT_KEYS)
    artifacts = {
        "models": inputs.models,
        "checkpoint": inputs.checkpoint,
        "evaluation": inputs.evaluation,
        "prompts": inputs.prompts,
        **({"samples": inputs.samples[0]} if inputs.samples else {}),
        **({"rating_page": inputs.rating_page} if inputs.rating_page else {}),
    }
    # What an earlier stage left may be gone from the workspace; its settings are in the weights, so the name has them.
    made, earlier = provenance.stages(artifacts), provenance.before(artifacts, context.workspace)

    pairs = sample_pairs(inputs.samples, config.sample_prompts)
    single_files = context.state / "single_file"
    compute = str(made["train"]["config"].get("compute_dtype", "bfloat16"))
    items = weight_items(config.formats, base, checkpoint, context.workspace, single_files, compute)
    items += [image for pair in pairs for image in (pair.before, pair.after)]
    items += [evaluation_file(inputs.evaluation, name) for name in ("evaluation.json", "report.html")]

    rating = rating_items(inputs.rating_page, config.rating_page_megabytes * 1e6)
    items += rating

    wanted = int(earlier.get("encode_prompts", {"config": {}})["config"].get("max_sequence_length", 0))
    kind, tokens, scheduler = pipeline_of(base.folder, wanted)
    arguments = call_arguments(kind, made.get("sample", {"config": {}})["config"], tokens)

    def card(release: str) -> Item:
        names = sorted(item.path for item in items)
        parts = (licences, data, base.release, evaluation, made, pairs, refusal, names, arguments, scheduler)
        return Item.of_text("README.md", model_card(release, *parts))

    # The name comes from the content, so that the same run gives the same release and writes nothing twice.
    for name in ("shard", "shards"):  # the images are the same for any number
        made.get("sample", {"config": {}})["config"].pop(name, None)
    configs = {stage: entry["config"] for stage, entry in made.items()}
    content = {item.path: item.sha256 for item in [*items, card("")]}
    release = f"{short_name(base.name)}-srpo-{digest_of({'files': content, 'config': configs})[:12]}"
    items.append(card(release))

    made = earlier | made
    configs = {stage: entry["config"] for stage, entry in made.items()}
    own = {name: value for name, value in asdict(config).items() if name != "destination"}
    manifest = {
        "base_model": provenance.base_model(base),
        "candidate": not refusal,
        "checkpoint": {key: value for key, value in checkpoint.items() if key not in ("weights", "files")},
        "config": configs | {"export": own},
        "data": data,
        "evaluation": {key: evaluation[key] for key in ("before", "after", "delta", "verdict", "gates", "passed")},
        "formats": list(config.formats),
        "git_commit": provenance.git_commit(),
        "images": provenance.images(made),
        "licences": licences,
        "parent": base.release,
        "prompts": provenance.prompt_set(inputs.prompts),
        "rating_page": "rating/index.html" if rating else None,
        "reason": refusal,
        "seeds": {stage: values["seed"] for stage, values in configs.items() if "seed" in values},
        "stages": {stage: {name: entry[name] for name in ("key", "code", "versions")} for stage, entry in made.items()},
    }
    where = publish(destination, release, items, manifest, context.progress)
    shutil.rmtree(single_files, ignore_errors=True)
    if not refusal:
        move_channel(destination, CHANNEL, release)

    uri = where if isinstance(destination, str) else Path(where).as_uri()
    result: dict[str, Any] = {"id": release, "uri": uri, "path": where, "candidate": not refusal, "reason": refusal}
    write_json(outputs.release / "release.json", result)
    write_text(outputs.report, release_report(release, uri, items, evaluation, licences, data, refusal))


def usable(text: str) -> Path | str:
    """The destination, where it can be listed and, as a folder, exists.

    Raises:
        InputError: a file, missing rights or wrong credentials are in the way.
    """
    destination = destination_of(text)
    if isinstance(destination, str):
        open_store(destination).folders("releases")
        return destination
    try:
        for folder in (destination / "releases", destination / "channels"):
            folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        accepted = "a folder that can be written, or the name of one to make"
        raise InputError(f"destination is {str(destination)!r} ({error.strerror}): it must be {accepted}") from None
    return destination


def evaluation_file(folder: Path, name: str) -> Item:
    """A file of the evaluation, under its own name."""
    if not (folder / name).is_file():
        raise InputError(f"{folder / name} is missing: the evaluation must hold it")
    return Item.of_file(name, folder / name)


def short_name(name: str) -> str:
    """The base model's name as part of a file name: "black-forest-labs/FLUX.1-dev" gives "FLUX.1-dev".

    Of a base that is a release it is that of the release's own base, so that names do not grow with each generation.
    """
    name = re.sub(r"(-srpo-[0-9a-f]{12})+$", "", name)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name.rstrip("/").rpartition("/")[2]).strip("-._")[:60] or "model"


def intact(result: Path, workspace: Path, known: KnownHashes) -> str:
    """What is wrong with the release that the result names, which stands at its destination."""
    where, _, release = read_json(result / "release" / "release.json", {"path": str})["path"].rpartition("/")
    there = open_store(where.removesuffix("/releases")).read(f"releases/{release}/manifest.json") is not None
    return "" if there else f"the release {release} is gone from {where}"


STAGE = Stage(name="export", config=Config, inputs=Inputs, outputs=Outputs, run=run, intact=intact)
