"""What goes into a release: read the artifacts of the run, check what they claim, and list the files."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import SAMPLES, read_table
from srpo.core.storage.files import digest_of, list_files
from srpo.core.storage.models import ModelEntry
from srpo.core.storage.releases import Item, inside

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


def model_items(base: ModelEntry, checkpoint: dict[str, Any], workspace: Path) -> list[Item]:
    """The files of ``model/``: the base pipeline with the tuned transformer in place of its own.

    Only what model_index.json names is taken (and licences), so that other weights of the base never ride along. Hashes
    are those that the base and the checkpoint were recorded with; the copy is verified against them.

    Raises:
        InputError: the base is not what was fetched, a part is missing, or the checkpoint is not a whole transformer.
    """
    folder = base.folder
    if not folder.resolve().is_relative_to(workspace.resolve()):
        raise InputError(f"model {base.name!r} lies at {folder}: it must be below the workspace {workspace}")
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
    return items + transformer_items(checkpoint, workspace)


def transformer_items(checkpoint: dict[str, Any], workspace: Path) -> list[Item]:
    """The tuned transformer's files, as checkpoint.json records them."""
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
        items.append(Item(f"model/transformer/{file['path']}", file["size"], file["sha256"], source))
    names = [item.path for item in items]
    if "model/transformer/config.json" not in names or not any(name.endswith(".safetensors") for name in names):
        raise InputError(f"{weights} is no transformer: checkpoint.json must record a config.json and *.safetensors")
    return items


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


def _image(path: str, source: Path) -> Item:
    if not source.is_file():
        raise InputError(f"{source} is missing: samples.parquet names it")
    return Item.of_file(path, source)


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
