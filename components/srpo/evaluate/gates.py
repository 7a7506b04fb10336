"""Conditions that a release must meet, such as ``srp.delta.low > 0``: parsed by hand, never evaluated as code."""

import difflib
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from srpo.core.contracts.config import nearest
from srpo.core.contracts.errors import InputError

OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
MOMENTS = ("before", "after", "delta")
SIDES = ("low", "high", "mean")
FORM = "'<name>.<before|after|delta>[.low|.high|.mean] <one of > >= < <=> <number>', such as 'srp.delta.low > 0'"
PATTERN = re.compile(r"\s*([\w.]+)\s*([<>]=?)\s*(\S+)\s*", re.ASCII)


class Gate(NamedTuple):
    """One parsed condition: ``name.moment.side operation number``."""

    condition: str
    name: str
    moment: str
    side: str
    operation: str
    number: float


def parse(condition: str) -> Gate:
    """The gate that ``condition`` says.

    Raises:
        InputError: it is not of the form that the message shows.
    """
    match = PATTERN.fullmatch(condition)
    parts = match[1].split(".") if match else []
    if not match or len(parts) not in (2, 3) or not all(parts):
        raise InputError(f"gates has {condition!r}: a gate must be {FORM}")
    side = parts[2] if len(parts) == 3 else "mean"
    for part, known in ((parts[1], MOMENTS), (side, SIDES)):
        if part not in known:
            raise InputError(f"gates has {condition!r} with {part!r}{nearest(part, known)}; a gate must be {FORM}")
    try:
        number = float(match[3])
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        raise InputError(f"gates has {condition!r} with {match[3]!r}: it must be a finite number")
    return Gate(condition, parts[0], parts[1], side, match[2], number)


def check(
    conditions: tuple[str, ...], summary: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> list[dict[str, Any]]:
    """``{"condition", "value", "passed"}`` of each; ``summary[moment][name]`` has ``mean``, ``low``, ``high``.

    Raises:
        InputError: a condition names something that was not measured; the nearest known name is given.
    """
    results = []
    for gate in map(parse, conditions):
        known = summary[gate.moment]
        if gate.name not in known:
            close = difflib.get_close_matches(gate.name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(
                f"gates has {gate.condition!r}, but {gate.name!r} was not measured: {hint}known are {', '.join(known)}"
            )
        value = known[gate.name][gate.side]
        passed = OPERATORS[gate.operation](value, gate.number)
        results.append({"condition": gate.condition, "value": value, "passed": bool(passed)})
    return results


def accepted_costs(gates: list[dict[str, Any]], lower_is_better: frozenset[str]) -> set[str]:
    """Names whose loss a passed gate bounds: whoever wrote ``held_out.delta.low > -0.02`` accepts a smaller one."""
    accepted = set()
    for result in gates:
        gate = parse(result["condition"])
        bounds_loss = gate.operation[0] == ("<" if gate.name in lower_is_better else ">")
        if result["passed"] and gate.moment == "delta" and bounds_loss:
            accepted.add(gate.name)
    return accepted
