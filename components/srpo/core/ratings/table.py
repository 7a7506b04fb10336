"""From the files that raters hand in to one table: all of them or none, and nothing that was not shown."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from srpo.core.contracts.errors import InputError, cause
from srpo.core.contracts.schemas import RATINGS, read_table, write_table
from srpo.core.ratings.plan import RATER, fnv1a
from srpo.core.ratings.study import Rules, Study
from srpo.core.storage.files import appearing
from srpo.core.storage.walk import check_regular

SCHEMA = "srpo.ratings/1"
ABOUT = "srpo.study"  # what the table's metadata says of its study
LONGEST = 64 << 20  # bytes of a file: a day's ratings are far below one megabyte


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What the statistics need to know of the study, kept in the table."""

    study: str
    mode: str
    models: tuple[str, ...]
    rules: Rules
    checkpoint: str


def about(study: Study) -> About:
    """What the table of ``study`` says of it."""
    return About(**{field.name: getattr(study, field.name) for field in dataclasses.fields(About)})


def rows_of(path: Path, study: Study, partial: bool = False) -> list[dict[str, Any]]:
    """The rows (schema ``RATINGS``) of one rater's file, its items told apart by the study's key.

    ``partial`` takes a file whose rater stopped early; otherwise every item must be there.

    Raises:
        InputError: the file is cut or no export, of another study, changed after the export, unfinished, or holds
            anything but what this rater was shown.
    """
    given = _read(path)
    for name, expected in (("study", study.study), ("mode", study.mode)):
        if given[name] != expected:
            raise InputError(f"{path} has the {name} {given[name]!r}: it must be {expected!r}, the study's own")
    rater, answers = given["rater"], given["answers"]
    if not RATER.fullmatch(rater):
        raise InputError(f"{path} has the rater {rater!r}: it must be of a-z, 0-9, '.', '_' and '-', at most 40")
    if given["checksum"] != checksum(study.study, rater, answers):
        raise InputError(f"{path} was changed after it was exported (its checksum differs): ask {rater} for it again")
    order = study.plan_of(rater)
    if len(answers) > len(order) or (len(answers) < len(order) and not partial):
        raise InputError(
            f"{path} holds {len(answers)} of {len(order)} items: it must hold all of them; let {rater} finish and "
            "export again, or take what is there with --partial"
        )
    items = {item.id: item for item in study.items}
    rows = []
    for position, (answer, shown) in enumerate(zip(answers, order, strict=False)):
        where = f"{path}, item {position + 1}"
        _check_answer(answer, where, study)
        for name, expected in shown._asdict().items():
            if answer[name] != expected:
                raise InputError(f"{where} has {name} {answer[name]!r}: {rater} was shown {expected!r} there")
        item = items[shown.item]
        first, second = (*item.models, "")[:2]
        for dimension, said in answer["answers"].items():
            golden = item.gold is not None and item.gold.dimension == dimension
            rows.append(
                {
                    "study": study.study,
                    "rater": rater,
                    "position": position,
                    "item": item.id,
                    "kind": "gold" if item.gold else "repeat" if shown.repeat else "item",
                    "prompt_id": item.prompt_id,
                    "category": item.category,
                    "noise_index": item.noise_index,
                    "model_a": first,
                    "model_b": second,
                    "dimension": dimension,
                    "answer": said,
                    "correct": said in item.gold.accepted if item.gold and golden else None,
                    "seconds": answer["ms"] / 1000,
                }
            )
    return rows


def collect(
    paths: Sequence[Path], study: Study, known: Sequence[Mapping[str, Any]] = (), partial: bool = False
) -> list[dict[str, Any]]:
    """The rows of all files, after those that are ``known`` already.

    Raises:
        InputError: any file is unusable, or a rater is there twice.
    """
    source = {str(row["rater"]): "the table" for row in known}
    rows = [dict(row) for row in known]
    for path in paths:
        found = rows_of(path, study, partial)
        if not found:
            raise InputError(f"{path} holds no answer: it must hold at least one item")
        rater = found[0]["rater"]
        if rater in source:
            raise InputError(f"{path} is of the rater {rater!r}, who is in {source[rater]} already: each counts once")
        source[rater] = str(path)
        rows += found
    return rows


def checksum(study: str, rater: str, answers: Any) -> str:
    """What the page writes beside the answers; finds accidents and careless edits, and is no signature."""
    text = json.dumps(answers, separators=(",", ":"), ensure_ascii=False)
    return f"{fnv1a(f'{study}/{rater}/{text}'):08x}"


def write_ratings(path: Path, rows: Sequence[Mapping[str, Any]], study: About) -> None:
    """Write the table, whole or not at all; its metadata holds what the statistics need to know of the study."""
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=RATINGS)
    with appearing(path) as partial:
        write_table(partial, table, RATINGS, {ABOUT: json.dumps(dataclasses.asdict(study), sort_keys=True)})


def read_ratings(path: Path) -> tuple[list[dict[str, Any]], About]:
    """The rows of a table of ratings, and its study.

    Raises:
        InputError: the file is missing, cut, or another table.
    """
    table = read_table(path, RATINGS)
    try:
        value = json.loads((table.schema.metadata or {})[ABOUT.encode()])
        study = About(**value | {"models": tuple(value["models"]), "rules": Rules(**value["rules"])})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} says nothing of its study ({error!r}): make it by `srpo ratings import`") from None
    return table.to_pylist(), study


def _read(path: Path) -> dict[str, Any]:
    accepted = "the file that the rating page saved"
    if path.exists():
        check_regular(path.resolve(), ())  # a pipe would be read for ever
    try:
        if path.stat().st_size > LONGEST:
            raise InputError(f"{path} is larger than {LONGEST >> 20} MB: it must be {accepted}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({cause(error)}): it must be {accepted}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is cut or no JSON ({cause(error)}): it must be {accepted}") from None
    kinds = {"study": str, "mode": str, "rater": str, "answers": list, "checksum": str}
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise InputError(f"{path} is of another schema: it must be {SCHEMA!r}, {accepted}")
    for name, kind in kinds.items():
        if not isinstance(value.get(name), kind):
            raise InputError(f"{path}: {name} is {value.get(name)!r}: it must be a JSON {kind.__name__}")
    return value


def _check_answer(answer: Any, where: str, study: Study) -> None:
    kinds = {"item": str, "repeat": bool, "swapped": bool, "ms": int, "answers": dict}
    if not isinstance(answer, dict) or set(answer) != set(kinds):
        raise InputError(f"{where} is {str(answer)[:80]!r}: it must be an object with {', '.join(kinds)}")
    for name, kind in kinds.items():
        if type(answer[name]) is not kind:
            raise InputError(f"{where} has {name} {answer[name]!r}: it must be a JSON {kind.__name__}")
    if not 0 <= answer["ms"] < 2**53:
        raise InputError(f"{where} has ms {answer['ms']!r}: it must be a time in milliseconds")
    if tuple(answer["answers"]) != study.dimensions:
        raise InputError(
            f"{where} answers {', '.join(map(str, answer['answers']))}: it must answer {', '.join(study.dimensions)}"
        )
    for dimension, said in answer["answers"].items():
        if said not in study.answers:
            raise InputError(f"{where} has {dimension} {said!r}: it must be one of {', '.join(study.answers)}")
