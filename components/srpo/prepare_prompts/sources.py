"""Read prompts from the formats people keep them in; what cannot be read is refused with file and line."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from srpo.core.contracts.errors import InputError
from srpo.core.storage.files import digest_of, sha256_of

TINY = "tiny"
COLUMNS = ("prompt", "text", "caption")
IDS = ("prompt_id", "id")
CATEGORIES = ("category", "tag")
SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet")
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # ids become file names of images


class Row(NamedTuple):
    """A prompt as its source has it."""

    source: str
    line: int  # line, entry or row, from 1
    prompt: str
    id: str | None = None
    category: str = ""
    split: str | None = None


def fingerprint(source: str) -> str:
    """SHA-256 of what ``source`` holds, so that an edited prompt is seen."""
    if source == TINY:
        from srpo.tiny import world

        return digest_of([list(row) for row in world.prompts()])
    return sha256_of(existing(source))


def existing(source: str) -> Path:
    """The file that ``source`` names; raises InputError when there is none or it has an unknown suffix."""
    path = Path(source)
    accepted = f"it must be a file ({', '.join(SUFFIXES)}) or {TINY!r}"
    if path.is_dir():
        raise InputError(f"prompt source {source!r} is a directory: name a file in it; {accepted}")
    if not path.is_file():
        raise InputError(f"prompt source {source!r} does not exist: {accepted}")
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"prompt source {source!r} has the suffix {path.suffix!r}: {accepted}")
    return path


def read(source: str, name: str, column: str | None = None) -> list[Row]:
    """The prompts of ``source`` in its own order, uncleaned; ``name`` stands for it in the rows.

    ``column`` names the text in formats that have columns or keys; None finds prompt, text or caption.

    Raises:
        InputError: missing, not readable as its suffix says, or without prompts.
    """
    if source == TINY:
        from srpo.tiny import world

        return [
            Row(name, line, row.prompt, row.id, row.category, row.split) for line, row in enumerate(world.prompts(), 1)
        ]
    path = existing(source)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows = _parquet(path, name, column)
    else:
        text = _decode(path)
        if suffix == ".txt":
            rows = _lines(path, name, text)
        elif suffix in (".csv", ".tsv"):
            rows = _separated(path, name, text, column, "," if suffix == ".csv" else "\t")
        else:
            rows = _json(path, name, text, column, lines=suffix == ".jsonl")
    if not rows:
        raise InputError(f"{path} is empty: it must hold at least one prompt")
    return rows


def _decode(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith(b"PAR1"):
        raise InputError(f"{path} holds Parquet: its name must end in .parquet")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        # Positions are those after a byte order mark; that one holds no newline.
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} line {line} is not UTF-8 ({error.reason}): save the file as UTF-8") from None


def _lines(path: Path, name: str, text: str) -> list[Row]:
    first = text.lstrip()[:1]
    # A prompt may begin with a bracket; a whole file or line that parses as JSON is no prompt.
    if first in ("[", "{") and any(_is_json(part) for part in (text, text.lstrip().split("\n", 1)[0])):
        raise InputError(f"{path} holds JSON: its name must end in .json or .jsonl")
    lines = text.split("\n")
    return [Row(name, number, line) for number, line in enumerate(lines if lines[-1] else lines[:-1], 1)]


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), (list, dict))
    except (ValueError, RecursionError):
        return False


def _json(path: Path, name: str, text: str, column: str | None, lines: bool) -> list[Row]:
    if not lines:
        try:
            whole = json.loads(text) if text.strip() else []
            if not isinstance(whole, list):
                keys = f" with {_listed(whole)}" if isinstance(whole, dict) else ""
                raise InputError(f"{path} holds one JSON {_kind(whole)}{keys}: it must be a list of texts or objects")
            return _records(path, name, enumerate(whole, 1), column)
        except (ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            # JSON Lines are often called .json; the first line tells.
            if not _is_json(text.lstrip().split("\n", 1)[0]):
                raise InputError(f"{path} is not JSON: {error}") from None
    return _records(path, name, _json_lines(path, text), column)


def _json_lines(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path} line {number} is not JSON: {error}") from None


def _separated(path: Path, name: str, text: str, column: str | None, separator: str) -> list[Row]:
    header_line = text.split("\n", 1)[0]
    if separator not in header_line:  # a .csv may be separated by semicolons or tabs
        separator = next((other for other in (",", "\t", ";") if other in header_line), separator)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)

    def records() -> Iterator[tuple[int, Any]]:
        start = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                accepted = f"{len(header)}, as the header ({', '.join(header)}); quote texts that hold {separator!r}"
                raise InputError(f"{path} line {start} has {len(fields)} fields: it must have {accepted}")
            if fields:
                yield start, dict(zip(header, fields, strict=True))
            start = reader.line_num + 1

    try:
        header = [field.strip() for field in next(reader, [])]
        if header:
            _column(path, header, column)  # a file of a header alone must still have the column
        return _records(path, name, records(), column)
    except csv.Error as error:
        raise InputError(
            f"{path} line {reader.line_num} cannot be read as {path.suffix[1:].upper()}: {error}"
        ) from None


def _parquet(path: Path, name: str, column: str | None) -> list[Row]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            found = _column(path, names, column)
            wanted = [found, *(_first(names, choices) for choices in (IDS, CATEGORIES))]
            table = file.read(columns=[entry for entry in wanted if entry])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from None
    return _records(path, name, enumerate(table.to_pylist(), 1), column)


def _records(path: Path, name: str, records: Iterable[tuple[int, Any]], column: str | None) -> list[Row]:
    """Rows from texts or mappings, each with its line."""
    rows = []
    for line, record in records:
        where = f"{path} entry {line}"
        if isinstance(record, str):
            rows.append(Row(name, line, record))
            continue
        if not isinstance(record, dict):
            raise InputError(f"{where} is {_kind(record)}: it must be a text or an object with {' or '.join(COLUMNS)}")
        prompt = record[_column(where, record, column)]
        if prompt is not None and not isinstance(prompt, str):
            raise InputError(f"{where} has the prompt {prompt!r}: it must be text")
        own, category = (record.get(_first(record, choices) or "") for choices in (IDS, CATEGORIES))
        rows.append(Row(name, line, prompt or "", _id(where, own), _category(where, category)))
    return rows


def _column(where: object, names: Iterable[str], column: str | None) -> str:
    found = column if column in set(names) else None if column else _first(names, COLUMNS)
    if found is None:
        wanted = repr(column) if column else " or ".join(COLUMNS)
        raise InputError(
            f"{where} has no column {wanted}: it has {_listed(names)}; set `column` to the one of the text"
        )
    return found


def _first(names: Iterable[str], choices: Iterable[str]) -> str | None:
    known = {name.lower(): name for name in names}
    return next((known[choice] for choice in choices if choice in known), None)


def _id(where: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not ID.fullmatch(text):
        accepted = "up to 100 letters, digits, '.', '_' or '-', the first a letter or digit (it names image files)"
        raise InputError(f"{where} has the id {value!r}: it must be {accepted}")
    return text


def _category(where: str, value: Any) -> str:
    if value is not None and not isinstance(value, (str, int)):
        raise InputError(f"{where} has the category {value!r}: it must be text")
    return "" if value is None else " ".join(str(value).encode("utf-8", "backslashreplace").decode().split())


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return kinds.get(type(value), "null")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(names)[:20])
