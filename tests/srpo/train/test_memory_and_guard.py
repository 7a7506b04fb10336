"""What is refused before weights are loaded, and what the guard lets ship."""

import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from srpo.core.contracts.errors import InputError
from srpo.train import memory
from srpo.train.config import Config
from srpo.train.guard import Reading, best_reading, collapsed, sound

BASE = Reading(0, 0.26, -0.14, 0.80, 0.13, 0.068, 0.030)
CONFIG = Config(guard_tolerance=0.02, guard_drift=2.0, guard_patience=2)


def after(step, **changes):
    return dataclasses.replace(BASE, step=step, **changes)


def test_parameters_are_counted_from_the_headers_alone(tmp_path):
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "one.safetensors")
    save_file({"c": torch.zeros(7, dtype=torch.bfloat16)}, tmp_path / "two.safetensors")
    assert memory.parameter_count(tmp_path) == 24


def test_the_estimate_follows_the_table_of_the_documentation():
    p = 12_000_000_000
    assert memory.estimate_bytes(Config(), p, 8) == 2 * p + 16 * p // 8
    assert memory.estimate_bytes(Config(ema_decay=0.99), p, 8) == 2 * p + 20 * p // 8
    assert memory.estimate_bytes(Config(lora_rank=32), p, 8) == 2 * p + 2 * p // 8


def test_a_run_that_cannot_fit_is_refused_with_the_mend(tmp_path, monkeypatch):
    (tmp_path / "transformer").mkdir()
    save_file({"a": torch.zeros(1000)}, tmp_path / "transformer" / "model.safetensors")
    monkeypatch.setattr(memory, "_available", lambda: 17_999)
    with pytest.raises(InputError, match=r"at least 18 KB a process.*18 KB are free.*lora_rank"):
        memory.check_memory(Config(), tmp_path, 1, torch.device("cpu"))
    monkeypatch.setattr(memory, "_available", lambda: 18_000)
    memory.check_memory(Config(), tmp_path, 1, torch.device("cpu"))


def test_the_most_style_ships_among_what_kept_its_alignment():
    readings = [
        BASE,
        after(5, held_out_srp=0.0),
        after(10, held_out_srp=0.1, held_out=0.245),
        after(15, held_out_srp=0.3, held_out=0.235),  # more style, but it fell by more than the tolerance
    ]
    assert best_reading(readings, CONFIG).step == 10


def test_the_base_ships_when_nothing_is_sound_or_better():
    assert best_reading([BASE, after(5, held_out_srp=0.5, held_out=0.1)], CONFIG).step == 0
    assert best_reading([BASE, after(5, held_out_srp=-0.3)], CONFIG).step == 0


@pytest.mark.parametrize("statistic", ["saturation", "contrast", "sharpness", "diversity"])
@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_statistics_that_drift_are_unsound(statistic, factor):
    drifted = after(5, held_out_srp=0.2, **{statistic: getattr(BASE, statistic) * factor})
    assert not sound(drifted, BASE, CONFIG)
    assert sound(after(5, **{statistic: getattr(BASE, statistic) * 1.5}), BASE, CONFIG)


def test_only_unsound_readings_in_a_row_stop_the_run():
    bad, good = {"held_out": 0.1}, {}
    assert not collapsed([BASE], CONFIG)
    assert not collapsed([BASE, after(5, **bad)], CONFIG)
    assert not collapsed([BASE, after(5, **bad), after(10, **good), after(15, **bad)], CONFIG)
    assert collapsed([BASE, after(5, **good), after(10, **bad), after(15, **bad)], CONFIG)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"sigma_high": 0.9995}, "sigma_high is 0.9995"),
        ({"sigma_low": 0.98}, "sigma_high is"),
        ({"interval_bins": 1000}, "interval_bins is 1000"),
        ({"k_denoise": (0.1,)}, "k_denoise is"),
        ({"batch_size": 5, "processes": 2}, "batch_size is 5: it must be a multiple of the 2 processes"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"sigma_low": 0.01, "matched_destination": True, "interval_bins": 500}, "sigma_low is 0.01"),
    ],
)
def test_settings_out_of_range_are_named(settings, said):
    with pytest.raises(InputError, match=said.replace("(", r"\(")):
        Config(**settings)
