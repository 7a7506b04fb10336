"""What the automatic gates may name and accept; how one is written and checked is ``srpo.core.contracts.gates``."""

import re
from pathlib import PurePath
from typing import Any

from srpo.core.contracts.config import nearest
from srpo.core.contracts.errors import InputError
from srpo.core.contracts.gates import Gate, check, parse, reward_aliases

__all__ = ["JUDGED", "accepted_costs", "check", "parse", "require_measure", "require_reward", "reward_aliases"]

# Measured only where the base has a judge; ``content`` only where that knows every prompt.
JUDGED = ("p_realistic", "content", "frechet")
MEASURES = ("srp", "reward_score", "held_out", "held_out_srp", *JUDGED, "saturation", "contrast", "sharpness")
FURTHER = re.compile(r"reward_\d+_(srp|score)|held_out_\d+_(srp|score)|held_out\..+")  # held_out.<name of the reward>


def require_measure(gate: Gate) -> None:
    """Raise :class:`InputError` where ``gate`` names what no run ever measures: found here, not after training."""
    if gate.name.replace(".", "_") not in MEASURES and not FURTHER.fullmatch(gate.name):
        hint = nearest(gate.name, MEASURES)
        raise InputError(f"gates has {gate.condition!r}, but no {gate.name!r} is measured{hint}")


def require_reward(gate: Gate, trained: int, held_out: str) -> None:
    """Raise :class:`InputError` where ``gate`` names a reward that the run lacks.

    ``trained`` is the number of rewards that it trains on, ``held_out`` the name or the folder of the one that judges.
    """
    further = [f"reward_{number}_{kind}" for number in range(2, trained + 1) for kind in ("srp", "score")]
    known = [*MEASURES, *further, *reward_aliases({"held_out": PurePath(held_out).name})]
    if gate.name not in known and gate.name.replace(".", "_") not in known:
        hint = nearest(gate.name, known)
        raise InputError(f"evaluate.gates has {gate.condition!r}, but this run measures no {gate.name!r}{hint}")


def accepted_costs(gates: list[dict[str, Any]], lower_is_better: frozenset[str]) -> set[str]:
    """Names whose loss a passed gate bounds: whoever wrote ``held_out.delta.low > -0.02`` accepts a smaller one."""
    accepted = set()
    for result in gates:
        gate = parse(result["condition"])
        bounds_loss = gate.operation[0] == ("<" if gate.name in lower_is_better else ">")
        if result["passed"] and gate.moment == "delta" and bounds_loss:
            accepted.add(gate.name.partition(".")[0])  # held_out.hpsv2 is the score held_out
    return accepted
