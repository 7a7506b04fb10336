"""Conditions that a release must meet, such as ``srp.delta.low > 0``: parsed by hand, never evaluated as code.

A name may have parts of its own: ``held_out.hpsv2.delta.low > -0.002``, ``ratings.realism.excellent.delta.low > 0``.
"""

import dataclasses
import difflib
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from srpo.core.contracts.config import from_mapping, nearest, read_mapping
from srpo.core.contracts.errors import InputError, require

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
MOMENTS = ("before", "after", "delta")
SIDES = ("low", "high", "mean")
FORM = "'<name>.<before|after|delta>[.low|.high|.mean] <one of > >= < <=> <number>', such as 'srp.delta.low > 0'"
PATTERN = re.compile(r"\s*([\w.-]+?)\s*([<>]=?)\s*(\S+)\s*", re.ASCII)
Summary = Mapping[str, Mapping[str, Mapping[str, Any]]]  # [before, after or delta][name][mean, low or high]


class Gate(NamedTuple):
    """One parsed condition: ``name.moment.side operation number``."""

    condition: str
    name: str
    moment: str
    side: str
    operation: str
    number: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gates:
    """What must hold, as a YAML file says it."""

    gates: tuple[str, ...]
    minimum_raters: int = 0  # of those that the study's rules leave in
    minimum_prompts: int = 0  # that they rated

    def __post_init__(self) -> None:
        for name in ("minimum_raters", "minimum_prompts"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a whole number of at least 0")
        require(bool(self.gates), "gates", self.gates, "at least one condition")
        for condition in self.gates:
            parse(condition)


def read_gates(path: Path) -> Gates:
    """The gates in a YAML file with ``gates`` (a list of conditions), ``minimum_raters`` and ``minimum_prompts``.

    Raises:
        InputError: it cannot be read, has another key, or a condition is not of the form.
    """
    given = read_mapping(path, "gates", [field.name for field in dataclasses.fields(Gates)])
    return from_mapping(Gates, given, str(path))


def parse(condition: str) -> Gate:
    """The gate that ``condition`` says.

    Raises:
        InputError: it is not of the form that the message shows.
    """
    match = PATTERN.fullmatch(condition)
    parts = match[1].split(".") if match else []
    if not match or len(parts) < 2 or not all(parts):
        raise InputError(f"gates has {condition!r}: a gate must be {FORM}")
    has_side = parts[-1] in SIDES or (parts[-1] not in MOMENTS and len(parts) > 2)
    side, moment = (parts[-1], parts[-2]) if has_side else ("mean", parts[-1])
    name = ".".join(parts[: -2 if has_side else -1])
    if not name:
        raise InputError(f"gates has {condition!r}: a gate must be {FORM}")
    for part, known in ((moment, MOMENTS), (side, SIDES)):
        if part not in known:
            raise InputError(f"gates has {condition!r} with {part!r}{nearest(part, known)}; a gate must be {FORM}")
    try:
        number = float(match[3])
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise InputError(f"gates has {condition!r} with {match[3]!r}: it must be a finite number")
    return Gate(condition, name, moment, side, match[2], number)


def check(
    conditions: Sequence[str],
    summary: Summary,
    aliases: Mapping[str, str] | None = None,
    missing: Collection[str] = (),
) -> list[dict[str, Any]]:
    """``{"condition", "value", "passed"}`` of each; ``summary[moment][name]`` has ``mean``, ``low``, ``high``.

    Args:
        conditions: what must hold.
        summary: what was measured; the end of an interval that is not known is None, and holds nothing.
        aliases: other names of what was measured.
        missing: names that could have been measured: their conditions fail, with the value None.

    Raises:
        InputError: a condition names something that was not measured; the nearest known name is given.
    """
    results = []
    for gate in map(parse, conditions):
        known = summary[gate.moment]
        name = find(gate.name, known, aliases or {})
        value = known[name][gate.side] if name in known else None
        if name not in known and name not in missing:
            close = difflib.get_close_matches(gate.name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(
                f"gates has {gate.condition!r}, but {gate.name!r} was not measured: {hint}known are {', '.join(known)}"
            )
        passed = value is not None and OPERATORS[gate.operation](value, gate.number)
        results.append({"condition": gate.condition, "value": value, "passed": bool(passed)})
    return results


def find(name: str, known: Collection[str], aliases: Mapping[str, str]) -> str:
    """The measured name that ``name`` means: itself, an alias, or itself with its dots as they are written there."""
    for one in (name, aliases.get(name, name), name.replace(".", "_")):
        if one in known:
            return one
    return name


def reward_aliases(names: Mapping[str, str]) -> dict[str, str]:
    """``held_out.<name of the reward>`` for the held-out reward's score; ``names`` are of the models, by role."""
    return {f"held_out.{names['held_out'].rstrip('/').rpartition('/')[2]}": "held_out"} if "held_out" in names else {}
