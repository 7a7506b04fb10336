"""What is refused before weights are loaded, and what the guard lets ship."""

import dataclasses
import json
import math
import struct

import pytest
import torch
from safetensors.torch import save_file

from srpo.core.contracts.errors import InputError
from srpo.train import memory
from srpo.train.config import Config
from srpo.train.guard import Reading, best_reading, collapsed, sound
from srpo.train.worker import usable

BASE = Reading(0, 0.26, -0.14, 0.80, 0.13, 0.068, 0.030)
CONFIG = Config(guard_tolerance=0.02, guard_drift=2.0, guard_patience=2)


def after(step, **changes):
    return dataclasses.replace(BASE, step=step, **changes)


def test_parameters_are_counted_from_the_headers_alone(tmp_path):
    save_file({"a": torch.zeros(3, 4), "b": torch.zeros(5)}, tmp_path / "one.safetensors")
    save_file({"c": torch.zeros(7, dtype=torch.bfloat16)}, tmp_path / "two.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert memory.parameter_count(tmp_path) == 24


NOTHING = memory.Kept(0, decoder=False)
P, GIB = 11_901_408_320, 2**30  # FLUX.1-dev
TARGETS = ("to_q", "to_k", "to_v")


def total(ranks, adapter=0, **settings):
    return sum(memory.weight_bytes(Config(**settings), P, ranks, adapter).values())


def test_the_estimate_follows_the_table_of_the_documentation():
    assert total(8) == 2 * P + 16 * P // 8
    assert total(8, ema_decay=0.99) == 2 * P + 20 * P // 8
    assert total(1, compute_dtype="float32") == 16 * P, "nothing is gathered where nothing is cast"
    assert total(8, adapter=800, lora_rank=32) == 2 * P + 800 * (2 + 16 // 8)
    assert total(1, precision="bf16_stochastic") == pytest.approx(8 * P, rel=0.01)
    assert total(8, precision="bf16_stochastic") == pytest.approx(2 * P + 8 * P / 8, rel=0.01)


@pytest.fixture
def flux_dev(tmp_path):
    """Folders with FLUX.1-dev's settings and the sizes of its tensors, and two rewards of the size of CLIP ViT-H/14."""
    settings = {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128}
    attention = {f"transformer_blocks.{n}.attn.{t}.weight": [3072, 3072] for n in range(57) for t in TARGETS}
    small = 70_000_000  # what stands before and after the blocks, norms and biases
    rest = {"transformer_blocks.0.rest.weight": [(P - small) // 3072 - 57 * 3 * 3072, 3072], "small": [small]}
    models = {
        "transformer": (settings, attention | rest),
        "vae": ({"block_out_channels": [128, 256, 512, 512]}, {"all": [83_819_683]}),
    }
    vision = {"image_size": 224, "patch_size": 14, "num_hidden_layers": 32, "hidden_size": 1280}
    for name in ("reward", "held_out"):
        models[name] = ({"vision_config": vision}, {"vision_model.all": [630_766_080], "text_model.all": [354_032_640]})
    for name, (config, tensors) in models.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        header = {key: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]} for key, shape in tensors.items()}
        written = json.dumps(header).encode()
        (tmp_path / name / "model.safetensors").write_bytes(struct.pack("<Q", len(written)) + written)
    return memory.Folders(tmp_path, [tmp_path / "reward"], tmp_path / "held_out")


@pytest.mark.parametrize(
    ("settings", "gib"),
    [
        ({"lora_rank": 32, "reward_dtype": "bfloat16"}, 40),
        ({"lora_rank": 32, "reward_dtype": "bfloat16", "quantised_base": True}, 24),
        ({"precision": "bf16_stochastic"}, 130),
    ],
)
def test_flux_fits_one_gpu_as_lora_and_whole(flux_dev, settings, gib):
    """At 720 x 720, one sample at a time, with activations, VAE and both rewards, and room for what a GPU adds."""
    parts = memory.memory_parts(Config(micro_batch_size=1, **settings), flux_dev, 1, NOTHING)
    assert 0.7 * gib * GIB < sum(parts.values()) < 0.85 * gib * GIB


def test_a_run_that_cannot_fit_is_refused_with_the_mend(flux_dev, monkeypatch):
    need = sum(memory.memory_parts(Config(), flux_dev, 2, NOTHING).values())
    monkeypatch.setattr(memory, "host_bytes", lambda: 2 * need - 2)
    with pytest.raises(InputError, match=r"about 1.. GB a process \(gathered weights 23.8 GB.*are free.*lora_rank"):
        memory.choose_kept(Config(), flux_dev, 2, memory.free_bytes(2, torch.device("cpu")))
    monkeypatch.setattr(memory, "host_bytes", lambda: 2 * need)
    assert memory.choose_kept(Config(), flux_dev, 2, memory.free_bytes(2, torch.device("cpu"))) == NOTHING


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


def test_a_step_is_taken_only_with_a_finite_loss_and_gradient():
    assert usable(1.0, 0.5)
    assert not any(usable(norm, loss) for norm, loss in ((0.0, math.nan), (math.inf, 0.5), (math.nan, math.nan)))
