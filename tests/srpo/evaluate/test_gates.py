"""Gates are parsed, checked against what was measured, and refused with a hint."""

import pytest

from srpo.core.contracts.errors import InputError
from srpo.evaluate.config import Config
from srpo.evaluate.gates import accepted_costs, check, parse

ENTRY = {"mean": 0.2, "low": 0.1, "high": 0.3}
SUMMARY = {moment: {"srp": ENTRY, "held_out": ENTRY, "frechet": ENTRY} for moment in ("before", "after", "delta")}


@pytest.mark.parametrize(
    ("condition", "value", "passed"),
    [
        ("srp.delta.low > 0", 0.1, True),
        ("srp.delta.low>0.1", 0.1, False),
        ("srp.delta.low >= 0.1", 0.1, True),
        ("held_out.after < 1e-3", 0.2, False),
        (" frechet.before.high <= 0.3 ", 0.3, True),
        ("srp.delta.mean > -.5", 0.2, True),
    ],
)
def test_conditions_mean_what_they_say(condition, value, passed):
    assert check((condition,), SUMMARY) == [{"condition": condition, "value": value, "passed": passed}]


@pytest.mark.parametrize(
    "condition",
    [
        "srp",
        "srp > 0",
        "srp.delta.low == 0",
        "srp.delta.low > zero",
        "srp.delta.low > nan",
        "srp.delta.low > 0 and 1",
        "srp.delta.low.high > 0",
        "__import__('os').delta > 0",
        "",
    ],
)
def test_a_gate_that_is_no_condition_is_refused_when_the_settings_are_made(condition):
    with pytest.raises(InputError, match="gate"):
        Config(gates=(condition,))


def test_a_misspelt_part_is_named_with_the_nearest_known():
    with pytest.raises(InputError, match="did you mean 'delta'"):
        parse("srp.dleta.low > 0")
    with pytest.raises(InputError, match="'held_uot' was not measured: did you mean 'held_out'"):
        check(("held_uot.delta > 0",), SUMMARY)


def test_only_a_gate_that_bounds_the_loss_accepts_a_cost():
    conditions = ("held_out.hpsv2.delta.low > -1", "frechet.delta.high < 1", "srp.delta.low < 1")
    gates = check(conditions, SUMMARY, {"held_out.hpsv2": "held_out"})
    assert accepted_costs(gates, frozenset({"frechet"})) == {"held_out", "frechet"}


@pytest.mark.parametrize("setting", [{"confidence": 1.0}, {"resamples": 10}, {"seed": -1}, {"thumbnail": 4}])
def test_settings_out_of_range_are_refused_by_name(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        Config(**setting)


def test_a_gate_on_what_no_run_measures_is_refused_when_the_settings_are_made():
    with pytest.raises(InputError, match="no 'held_uot' is measured: did you mean 'held_out'"):
        Config(gates=("held_uot.delta.low > 0",))


def test_gates_may_name_every_reward_of_a_run():
    Config(gates=("reward_2_srp.delta > 0", "held_out.hpsv2.1.delta > -1", "held_out.srp.after > 0"))
