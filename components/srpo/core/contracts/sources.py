"""How a source of prompts is written: a name, with a weight where there is one."""

import math

from srpo.core.contracts.errors import InputError


def split_weight(source: str) -> tuple[str, float | None]:
    """``("a.txt", 2.0)`` of ``"a.txt=2"``; None where no weight is given."""
    name, _, number = source.rpartition("=")
    try:
        weight = float(number) if name else None
    except ValueError:  # an equals sign of the name's own
        return source, None
    if weight is None:
        return source, None
    if not (weight > 0 and math.isfinite(weight)):
        raise InputError(f"source {source!r} has the weight {number}: it must be above 0")
    return name, weight
