"""Rows of one prompt file, read as a stream; what cannot be read is refused with file and line."""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from srpo.core.contracts.errors import InputError

COLUMNS = ("prompt", "text", "caption")
IDS = ("prompt_id", "id")
CATEGORIES = ("category", "tag")
SPLITS = ("train", "held_out", "rating")
SUFFIXES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet")
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # ids become file names of images
LONGEST = 16 << 20  # bytes of a line, so that a file without line ends does not fill the memory
PARQUET_ROWS = 4096  # that are decoded at once


class Row(NamedTuple):
    """A prompt as its source has it."""

    line: int  # line, entry or row, from 1
    prompt: str
    id: str | None = None
    category: str = ""
    split: str | None = None


def split_suffix(name: str) -> tuple[str, str, str]:
    """``("a", ".csv", ".gz")`` of ``a.csv.gz``: stem, format and compression, the latter two in small letters."""
    compression = next((end for end in COMPRESSIONS if name.lower().endswith(end)), "")
    name = name[: len(name) - len(compression)]
    stem, dot, suffix = name.rpartition(".")
    return (stem, dot + suffix.lower(), compression) if dot else (name, "", compression)


def read(opened: Callable[[], BinaryIO], where: str, column: str | None = None) -> Iterator[Row]:
    """The prompts of a file in its own order, uncleaned; all but a JSON list is read as a stream.

    Args:
        opened: opens the file's bytes, from the start each time.
        where: its path or URI, for messages; its suffixes say what it holds.
        column: of the text, in formats that have columns or keys; None finds prompt, text or caption.

    Raises:
        InputError: not readable as its suffix says, or without rows.
    """
    _, suffix, compression = split_suffix(where)
    kind = COMPRESSIONS.get(compression, suffix[1:].capitalize())
    row = None
    try:
        for row in _FORMATS[suffix](lambda: decompressed(opened(), compression), where, column):
            yield row
    except (OSError, pa.ArrowException) as error:
        # Arrow says without a number that a stream is cut or of another format; a disk's own errors have one.
        if getattr(error, "errno", None) is not None or not (compression or suffix == ".parquet"):
            raise
        raise InputError(f"{where} cannot be read as {kind}: {error}") from None
    if row is None:
        raise InputError(f"{where} is empty: it must hold at least one prompt")


def decompressed(raw: BinaryIO, compression: str) -> BinaryIO:
    """The bytes of ``raw`` as a stream; ``compression`` is ``.gz``, ``.zst`` or nothing."""
    if not compression:
        return raw
    stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), COMPRESSIONS[compression])
    return io.BufferedReader(stream, 1 << 20)


def text_lines(file: BinaryIO, where: str) -> Iterator[tuple[int, str]]:
    """``(number, line)`` of a UTF-8 text without line ends; a byte order mark is no part of it."""
    number = 0
    while line := file.readline(LONGEST + 1):
        number += 1
        if len(line) > LONGEST:
            raise InputError(f"{where} line {number} is longer than {LONGEST >> 20} MB: it must be text in lines")
        if number == 1 and line.startswith(b"PAR1"):
            raise InputError(f"{where} holds Parquet: its name must end in .parquet")
        yield number, _decoded(line, where, number).removesuffix("\n").removesuffix("\r")


def _decoded(data: bytes, where: str, line: int) -> str:
    try:
        return data.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line += data.count(b"\n", 0, error.start)
        raise InputError(f"{where} line {line} is not UTF-8 ({error.reason}): save the file as UTF-8") from None


def _text(opened: Callable[[], BinaryIO], where: str, column: str | None) -> Iterator[Row]:
    with opened() as file:
        for number, line in text_lines(file, where):
            # A prompt may begin with a bracket; a first line that parses as JSON, or a bracket alone, is none.
            if number == 1 and (line.strip() in ("[", "{") or _is_json(line)):
                raise InputError(f"{where} holds JSON: its name must end in .json or .jsonl")
            yield Row(number, line)


def _is_json(text: str | bytes) -> bool:
    try:
        return isinstance(json.loads(text), (list, dict))
    except (ValueError, RecursionError):
        return False


def _json(opened: Callable[[], BinaryIO], where: str, column: str | None) -> Iterator[Row]:
    with opened() as file:  # JSON Lines are often called .json: a first line that is whole, and another, tell
        lines = (line for line in file if line.strip())
        first, second = next(lines, b""), next(lines, b"")
    if second and _is_json(first):
        yield from _json_lines(opened, where, column)
        return
    with opened() as file:
        text = _decoded(file.read(), where, 1)
    try:
        found = json.loads(text) if text.strip() else []
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON: {error}") from None
    if not isinstance(found, list):
        keys = f" with {_listed(found)}" if isinstance(found, dict) else ""
        raise InputError(f"{where} holds one JSON {_kind(found)}{keys}: it must be a list of texts or objects")
    yield from _records(enumerate(found, 1), where, column)


def _json_lines(opened: Callable[[], BinaryIO], where: str, column: str | None) -> Iterator[Row]:
    def records(file: BinaryIO) -> Iterator[tuple[int, Any]]:
        for number, line in text_lines(file, where):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise InputError(f"{where} line {number} is not JSON: {error}") from None

    with opened() as file:
        yield from _records(records(file), where, column)


def _separated(opened: Callable[[], BinaryIO], where: str, column: str | None) -> Iterator[Row]:
    separator = "\t" if split_suffix(where)[1] == ".tsv" else ","
    csv.field_size_limit(LONGEST)

    def records(reader: Any, header: list[str]) -> Iterator[tuple[int, Any]]:
        start = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                accepted = f"{len(header)}, as the header ({', '.join(header)}); quote texts that hold {separator!r}"
                raise InputError(f"{where} line {start} has {len(fields)} fields: it must have {accepted}")
            if fields:
                yield start, dict(zip(header, fields, strict=True))
            start = reader.line_num + 1

    with opened() as file:
        lines = (f"{line}\n" for _, line in text_lines(file, where))
        first = next(lines, "")
        if separator not in first:  # a .csv may be separated by semicolons or tabs
            separator = next((other for other in (",", "\t", ";") if other in first), separator)
        reader = csv.reader(itertools.chain([first], lines), delimiter=separator, strict=True)
        try:
            header = [field.strip() for field in next(reader, [])]
            if header:
                _column(where, header, column)  # a file of a header alone must still have the column
            yield from _records(records(reader, header), where, column)
        except csv.Error as error:
            kind = split_suffix(where)[1][1:].upper()
            raise InputError(f"{where} line {reader.line_num} cannot be read as {kind}: {error}") from None


def _parquet(opened: Callable[[], BinaryIO], where: str, column: str | None) -> Iterator[Row]:
    with opened() as raw, pq.ParquetFile(raw, pre_buffer=False) as file:
        names = file.schema_arrow.names
        found = (_column(where, names, column), *(_first(names, choices) for choices in (IDS, CATEGORIES, ("split",))))
        batches = file.iter_batches(batch_size=PARQUET_ROWS, columns=[name for name in found if name])
        records = (record for batch in batches for record in batch.to_pylist())
        yield from _records(enumerate(records, 1), where, column)


def _records(records: Iterable[tuple[int, Any]], where: str, column: str | None) -> Iterator[Row]:
    """Rows from texts or mappings, each with its line."""
    known: dict[tuple[str, ...], tuple[str | None, ...]] = {}  # names of a record: those of text, id, category, split
    for line, record in records:
        place = f"{where} entry {line}"
        if isinstance(record, str):
            yield Row(line, record)
            continue
        if not isinstance(record, dict):
            raise InputError(f"{place} is {_kind(record)}: it must be a text or an object with {' or '.join(COLUMNS)}")
        names = tuple(record)
        if names not in known:
            others = (_first(names, choices) for choices in (IDS, CATEGORIES, ("split",)))
            if len(known) >= 1000:  # objects that all differ in their keys
                known.clear()
            known[names] = (_column(place, names, column), *others)
        prompt, own, category, split = (None if name is None else record[name] for name in known[names])
        if prompt is not None and not isinstance(prompt, str):
            raise InputError(f"{place} has the prompt {str(prompt)[:200]!r}: it must be text")
        split = split if split in SPLITS else None  # sets call theirs otherwise: test, validation
        yield Row(line, prompt or "", _id(place, own), _category(place, category), split)


def _column(where: object, names: Iterable[str], column: str | None) -> str:
    found = column if column in set(names) else None if column else _first(names, COLUMNS)
    if found is None:
        wanted = repr(column) if column else " or ".join(COLUMNS)
        raise InputError(
            f"{where} has no column {wanted}: it has {_listed(names)}; set prepare_prompts.column to that of the text"
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
        raise InputError(f"{where} has the id {str(value)[:200]!r}: it must be {accepted}")
    return text


def _category(where: str, value: Any) -> str:
    if value is not None and not isinstance(value, (str, int)):
        raise InputError(f"{where} has the category {str(value)[:200]!r}: it must be text")
    return "" if value is None else " ".join(str(value).encode("utf-8", "backslashreplace").decode().split())


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}
    return kinds.get(type(value), "null")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in list(names)[:20])


_FORMATS = {
    ".txt": _text,
    ".json": _json,
    ".jsonl": _json_lines,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
}
