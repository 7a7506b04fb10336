"""What goes into a release: read the artifacts of the run, check what they claim, and list the files."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from srpo.core.backbones.pipelines import text_tokens
from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import SAMPLES, read_table
from srpo.core.execution.stage import read_manifest
from srpo.core.storage.files import digest_of, list_files, sha256_of
from srpo.core.storage.models import ModelEntry
from srpo.core.storage.releases import Item, inside
from srpo.core.storage.weights import weight_files
from srpo.export.original import write_original
from srpo.export.proof import check_adapter, check_transformer

SINGLE_FILES = {"original-bf16": "flux-bf16.safetensors", "original-fp8": "flux-fp8-scaled.safetensors"}
EVALUATION_KEYS = {"before": dict, "after": dict, "delta": dict, "verdict": str, "gates": list, "passed": bool}


class Pair(NamedTuple):
    """One prompt, as the base and as the tuned model drew it from the same noise; paths are in the release."""

    prompt: str
    before: Item
    after: Item


def read_json(path: Path, keys: dict[str, type]) -> dict[str, Any]:
    """A JSON object that must have ``keys``, each of its type; raises InputError naming what is wrong."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    for key, kind in keys.items():
        if not isinstance(value, dict) or not isinstance(value.get(key), kind):
            found = repr(value.get(key)) if isinstance(value, dict) else "absent"
            raise InputError(f"{path}: {key} is {found}: it must be a JSON {kind.__name__}")
    return dict(value)


def read_evaluation(folder: Path) -> dict[str, Any]:
    """evaluation.json; a run is passed only if each of its gates is.

    Raises:
        InputError: it is of another shape or contradicts itself.
    """
    path = folder / "evaluation.json"
    evaluation = read_json(path, EVALUATION_KEYS)
    for gate in evaluation["gates"]:
        if (
            not isinstance(gate, dict)
            or not isinstance(gate.get("passed"), bool)
            or not {"condition", "value"} <= set(gate)
        ):
            raise InputError(f"{path}: a gate is {gate!r}: it must be an object with condition, value and passed")
    if evaluation["passed"] and not all(gate["passed"] for gate in evaluation["gates"]):
        raise InputError(f"{path}: passed is true, but a gate is not: it must be false")
    return evaluation


def base_items(base: ModelEntry) -> list[Item]:
    """The files of ``model/`` that the tuned model shares with its base: the pipeline but for the transformer.

    Only what model_index.json names is taken (and licences), so that other weights of the base never ride along. Hashes
    are those that the base was recorded with; the copy is verified against them.

    Raises:
        InputError: the base is not what was fetched, or a part is missing.
    """
    folder = base.folder  # in the workspace, or in a cache elsewhere; what counts is that its bytes are those fetched
    files = list_files(folder)
    if digest_of(files) != base.digest:
        raise InputError(f"model {base.name!r} at {folder} is not what was fetched: its digest must be {base.digest}")
    parts = [name for name, value in read_json(folder / "model_index.json", {}).items() if isinstance(value, list)]
    if "transformer" not in parts:
        raise InputError(f"{folder / 'model_index.json'} names no transformer: it must be a pipeline that has one")
    items = []
    for file in files:
        top, _, rest = file["path"].partition("/")
        licence = not rest and top.upper().startswith(("LICENSE", "LICENCE", "NOTICE"))
        if top == "model_index.json" or licence or (rest and top in parts and top != "transformer"):
            items.append(Item(f"model/{file['path']}", file["size"], file["sha256"], folder / file["path"]))
    return items


def transformer_items(checkpoint: dict[str, Any], workspace: Path) -> list[Item]:
    """The tuned transformer's files, as checkpoint.json records them; those of a LoRA under ``lora/``.

    Raises:
        InputError: the checkpoint is not a whole transformer.
    """
    if checkpoint["kind"] != "full":
        raise InputError(f"checkpoint.json: kind is {checkpoint['kind']!r}: only 'full' weights can be released")
    weights = inside(workspace, checkpoint["weights"], "checkpoint.json")
    items = []
    for file in checkpoint["files"]:
        if not isinstance(file, dict) or not {"path", "size", "sha256"} <= set(file):
            raise InputError(f"checkpoint.json: a file is {file!r}: it must be an object with path, size and sha256")
        source = inside(weights, file["path"], "checkpoint.json")
        if not source.is_file() or source.stat().st_size != file["size"]:
            raise InputError(f"{source} is missing or cut: checkpoint.json records {file['size']} bytes")
        name = file["path"] if file["path"].startswith("lora/") else f"model/transformer/{file['path']}"
        items.append(Item(name, file["size"], file["sha256"], source))
    names = [item.path for item in items]
    weights_there = any(name.startswith("model/") and name.endswith(".safetensors") for name in names)
    if "model/transformer/config.json" not in names or not weights_there:
        raise InputError(f"{weights} is no transformer: checkpoint.json must record a config.json and *.safetensors")
    return items


def prove(transformer: list[Item], base: ModelEntry, compute: str) -> None:
    """Every tensor of the transformer, and of the adapter if there is one, is what the run says it is.

    Raises:
        InputError: one is not.
    """
    sources = {item.path: item.source for item in transformer if isinstance(item.source, Path)}
    before = weight_files(base.folder / "transformer")
    weights = {path: source for path, source in sources.items() if path.endswith(".safetensors")}
    tuned = [source for path, source in weights.items() if path.startswith("model/")]
    index = [source for path, source in sources.items() if path.endswith(".safetensors.index.json")]
    check_transformer(before, tuned, index[0] if index else None)
    for path, source in weights.items():
        if path.startswith("lora/"):
            check_adapter(before, tuned, source, compute)


def weight_items(
    formats: tuple[str, ...], base: ModelEntry, checkpoint: dict[str, Any], workspace: Path, made: Path, compute: str
) -> list[Item]:
    """The weights in every one of ``formats``, proven; single files are made in the folder ``made``.

    ``compute`` is the dtype in which the training held a frozen base.

    Raises:
        InputError: a part of the base or of the checkpoint is missing or damaged, or cannot have that format.
    """
    transformer = transformer_items(checkpoint, workspace)
    prove(transformer, base, compute)
    items = base_items(base) if "diffusers" in formats else []
    for item in transformer:
        if ("lora" if item.path.startswith("lora/") else "diffusers") in formats:
            items.append(item)
    for name, file in SINGLE_FILES.items():
        if name in formats:
            items.append(single_file(transformer, made / file, f"single_file/{file}", fp8=name == "original-fp8"))
    return items


def single_file(transformer: list[Item], path: Path, name: str, fp8: bool) -> Item:
    """The transformer in the original layout, made at ``path``."""
    sources = [item.source for item in transformer if isinstance(item.source, Path) and item.path.startswith("model/")]
    for item in transformer:
        if isinstance(item.source, Path) and sha256_of(item.source) != item.sha256:
            raise InputError(f"{item.source} is not what checkpoint.json records: its SHA-256 must be {item.sha256}")
    config = next(source for source in sources if source.name == "config.json")
    weights = [source for source in sources if source.suffix == ".safetensors"]
    write_original(weights, read_json(config, {}), path, fp8)
    return Item.of_file(name, path)


def sample_pairs(folders: tuple[Path, ...], most: int) -> list[Pair]:
    """The first ``most`` prompts (by id) that both models drew: held-out ones, each with its first noise."""
    drawn: dict[tuple[str, int], dict[str, tuple[Path, str]]] = {}
    for folder in folders:
        columns = ["prompt_id", "prompt", "split", "model", "noise_index", "image"]
        for row in read_table(folder / "samples.parquet", SAMPLES).select(columns).to_pylist():
            if row["split"] == "held_out":
                image = inside(folder, row["image"], str(folder / "samples.parquet"))
                drawn.setdefault((row["prompt_id"], row["noise_index"]), {})[row["model"]] = (image, row["prompt"])
    pairs: list[Pair] = []
    seen = set()
    for (prompt_id, _), images in sorted(drawn.items()):
        if len(pairs) < most and prompt_id not in seen and {"base", "tuned"} <= set(images):
            seen.add(prompt_id)
            name = f"samples/{len(pairs) + 1:02d}"
            before, after = (
                _image(f"{name}-{when}.png", images[model][0])
                for when, model in (("before", "base"), ("after", "tuned"))
            )
            pairs.append(Pair(images["base"][1], before, after))
    return pairs


def rating_items(page: Path | None, most: float) -> list[Item]:
    """The rating page and its images, under ``rating/``; nothing where it is not there or has more than ``most`` bytes.

    Raises:
        InputError: it is no rating page: another artifact, above all the key, must not get into a release.
    """
    if page is None:
        return []
    manifest = read_manifest(page)
    if manifest["artifact"] != "page":
        raise InputError(f"{page} is the artifact {manifest['artifact']!r}: it must be the `page` of rating_page")
    files = manifest["files"]
    if sum(file["size"] for file in files) > most:
        return []
    where = str(page / "manifest.json")
    return [
        Item(f"rating/{file['path']}", file["size"], file["sha256"], inside(page, file["path"], where))
        for file in files
    ]


def _image(path: str, source: Path) -> Item:
    if not source.is_file():
        raise InputError(f"{source} is missing: samples.parquet names it")
    return Item.of_file(path, source)


def pipeline_of(folder: Path, wanted: int = 0) -> tuple[str, int | None, str]:
    """Class of the pipeline in ``folder``, the tokens of a prompt where its call must say them, and its scheduler."""
    index = read_json(folder / "model_index.json", {})
    name, scheduler = str(index.get("_class_name")), index.get("scheduler")
    told = name == "FluxPipeline" and (folder / "tokenizer_2").is_dir()
    return name, text_tokens(folder, wanted) if told else None, str(scheduler[1] if scheduler else None)


def gate_failures(evaluation: dict[str, Any]) -> str:
    """Why the run is no candidate, in words; "" when it passed."""
    if evaluation["passed"]:
        return ""
    failed = [
        f"{gate['condition']} (measured: {shown(gate['value'])})" for gate in evaluation["gates"] if not gate["passed"]
    ]
    return "failed: " + "; ".join(failed) if failed else f"not passed: {evaluation['verdict']}"


def shown(value: Any) -> str:
    """A measured value for a reader: four digits, and its interval where it has ``low`` and ``high``."""
    if isinstance(value, dict) and {"low", "high"} <= set(value):
        rest = [shown(entry) for name, entry in value.items() if name not in ("low", "high")]
        return " ".join([*rest, shown([value["low"], value["high"]])])
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(entry)}" for name, entry in value.items())
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(shown(entry) for entry in value)}]"
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
