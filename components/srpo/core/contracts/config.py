"""Build a frozen dataclass from a mapping that a person or a pipeline wrote.

A stage's ``config.py`` holds every default once; this module only refuses what does not fit: unknown keys (with the
nearest known one) and values of another type. Ranges are the dataclass's own business, in ``__post_init__``.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from srpo.core.contracts.errors import InputError, cause

T = TypeVar("T")


DEEPEST = 64  # levels of a YAML file
MOST = 2**53  # of whole numbers: Kubeflow passes them as doubles


def place(default: Any) -> Any:
    """A setting that says where something is, or may be asked: another value makes no other result."""
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=lambda: default.copy(), metadata={"place": True})
    return dataclasses.field(default=default, metadata={"place": True})


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of the dataclass ``cls`` from ``values``.

    ``where`` names the source of the values in messages (``train``, ``run.yaml``). Whole numbers are taken for floats
    and lists for tuples, since YAML and JSON cannot tell them apart.

    Raises:
        InputError: an unknown key, a missing required key, a value of another type, or a range check of ``cls``.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    arguments = {}
    for name, value in values.items():
        if name not in fields:
            raise InputError(f"{where} has no setting {name!r}{nearest(name, fields)}")
        arguments[name] = convert(value, hints[name], f"{where}.{name}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in arguments:
            raise InputError(f"{where}.{name} is missing: it must be {describe(hints[name])}")
    try:
        return cls(**arguments)
    except InputError as error:
        raise InputError(f"{where}.{error}") from None


def load_yaml(text: str) -> Any:
    """What YAML says, of at most :data:`DEEPEST` levels: more of them is an attack or an accident.

    Raises:
        yaml.YAMLError: it is none, or is nested deeper.
    """
    import yaml  # here: settings are checked with this module, and `srpo --help` shall answer at once

    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested deeper than {DEEPEST} levels")
    return yaml.safe_load(text)


def read_mapping(path: Path, name: str, keys: typing.Iterable[str]) -> dict[str, Any]:
    """What the YAML file ``path`` holds; ``name`` is what messages call it, ``keys`` are those that it may have.

    Raises:
        InputError: it cannot be read, holds no mapping, or has another key.
    """
    import yaml

    known = tuple(keys)
    try:
        given = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{name} {str(path)!r} cannot be read as YAML: {cause(error)}") from None
    if not isinstance(given, dict):
        raise InputError(f"{name} {str(path)!r} holds {given!r}: it must be a mapping with {', '.join(known)}")
    for key in given:
        if key not in known:
            raise InputError(f"{name} {str(path)!r} has no key {key!r}{nearest(str(key), known)}")
    return given


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """A hint that names the known key nearest to ``name``, or all of them when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(names)}"


def convert(value: Any, hint: Any, name: str) -> Any:
    """``value`` as the type ``hint``; raises :class:`InputError` naming ``name`` when it is of another type."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        members = [member for member in typing.get_args(hint) if member is not type(None)]
        return convert(value, members[0], name) if len(members) == 1 else value
    if origin is typing.Literal:
        if value in typing.get_args(hint):
            return value
    elif origin is tuple and isinstance(value, (list, tuple)):
        item = typing.get_args(hint)[0]
        return tuple(convert(entry, item, f"{name}[{index}]") for index, entry in enumerate(value))
    elif origin is list and isinstance(value, (list, tuple)):
        item = typing.get_args(hint)[0]
        return [convert(entry, item, f"{name}[{index}]") for index, entry in enumerate(value)]
    elif origin is dict and isinstance(value, Mapping):
        item = typing.get_args(hint)[1]
        return {str(key): convert(entry, item, f"{name}.{key}") for key, entry in value.items()}
    elif hint is Any:
        return value
    elif hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    elif hint is float and isinstance(value, str):  # YAML reads 3e-5 as text
        try:
            return float(value)
        except ValueError:
            pass
    elif hint is int and isinstance(value, (int, float)) and abs(value) > MOST:
        raise InputError(f"{name} is {value!r}: it must be a whole number up to {MOST}, which a double holds exactly")
    elif hint is int and isinstance(value, float) and value.is_integer():  # KFP passes every number as a double
        return int(value)
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    elif dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_mapping(typing.cast(Any, hint), value, name)
    raise InputError(f"{name} is {value!r}: it must be {describe(hint)}")


def describe(hint: Any) -> str:
    """A type in a reader's words."""
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(choice) for choice in typing.get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if part is type(None) else describe(part) for part in typing.get_args(hint))
    if origin in (tuple, list):
        item = typing.get_args(hint)[0]
        return "a list" if item is Any else f"a list, each entry {describe(item)}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping"}
    return words.get(origin or hint, getattr(hint, "__name__", str(hint)))
