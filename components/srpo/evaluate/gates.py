"""What the automatic gates accept; how a gate is written and checked is ``srpo.core.contracts.gates``."""

from typing import Any

from srpo.core.contracts.gates import check, parse, reward_aliases

__all__ = ["accepted_costs", "check", "parse", "reward_aliases"]


def accepted_costs(gates: list[dict[str, Any]], lower_is_better: frozenset[str]) -> set[str]:
    """Names whose loss a passed gate bounds: whoever wrote ``held_out.delta.low > -0.02`` accepts a smaller one."""
    accepted = set()
    for result in gates:
        gate = parse(result["condition"])
        bounds_loss = gate.operation[0] == ("<" if gate.name in lower_is_better else ">")
        if result["passed"] and gate.moment == "delta" and bounds_loss:
            accepted.add(gate.name.partition(".")[0])  # held_out.hpsv2 is the score held_out
    return accepted
