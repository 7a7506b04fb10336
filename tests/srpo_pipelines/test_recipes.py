"""The recipes against the published settings (paper, section 4 and its tables), written out here once more."""

from pathlib import Path

import pytest

from srpo.configure.parameters import stage_configs
from srpo.fetch_base.catalogue import catalogue, find
from srpo.fetch_base.config import Config as FetchBase
from srpo.fetch_base.run import find_sources
from srpo.train.config import Config as Train
from srpo.train.memory import weight_bytes
from srpo_pipelines.settings import parameters, recipe_names

DOCS = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
GIB = 2**30

FLUX_TRAIN = {
    "method": "direct_align",
    # optimiser: AdamW (0.9, 0.999), lr 5e-6, weight decay 1e-4, constant, clip 0.1, full parameters
    "beta1": 0.9,
    "beta2": 0.999,
    "learning_rate": 5e-6,
    "weight_decay": 1e-4,
    "clip_norm": 0.1,
    "lora_rank": 0,
    # resolution, rollout: 720 x 720, 25 steps, static shift 3, embedded guidance 1
    "resolution": 720,
    "rollout_steps": 25,
    "shift": 3.0,
    "rollout_guidance": 1.0,
    # guidance in the gradient step: 3.5
    "guidance": 3.5,
    # training sigmas: 0.964 .. 0.750, split into 1000; interval 100 of them
    "sigma_high": 0.964,
    "sigma_low": 0.750,
    "sigma_bins": 1000,
    "interval_bins": 100,
    # the relative reward: both branches, (1 + k) C1 - C2, k_p 0.10 -> 0.25, k_i 0.30 -> 0.01, margin 0.7
    "branches": "both",
    "reward_form": "stable",
    "k_denoise": (0.10, 0.25),
    "k_inversion": (0.30, 0.01),
    "loss": "hinge",
    "margin": 0.7,
    "late_weighting": False,
    # one noise and one pair of words a step, shared by the batch
    "shared_noise": True,
    "interval_per_sample": False,
    "words_per": "step",
    # batch: 32 prompts a step, 15-25 steps, best at 20
    "batch_size": 32,
    "steps": 20,
    "processes": 8,
}
# evaluation: 3,200 HPDv2 prompts, 50 steps, guidance 3.5, 1024 x 1024
EVALUATION = {"max_prompts": 3200, "steps": 50, "guidance": 3.5, "resolution": 1024, "shards": 8}
FLUX, QWEN = "black-forest-labs/FLUX.1-dev", "Qwen/Qwen-Image"
PUBLISHED = {
    "flux1-dev-hpsv2": ((FLUX, "hpsv2.1"), FLUX_TRAIN, EVALUATION),
    # PickScore run: sigmas 0.964 .. 0.667, k_p 0.1 -> 0.5, k_i 0.6 -> 0.01, rollout guidance 2
    "flux1-dev-pickscore": (
        (FLUX, "pickscore"),
        FLUX_TRAIN | {"sigma_low": 0.667, "k_denoise": (0.1, 0.5), "k_inversion": (0.6, 0.01), "rollout_guidance": 2.0},
        EVALUATION,
    ),
    # Qwen-Image run: denoise branch only, k = 0, multiplier lambda(t) on the reward, no margin, lr 3e-6,
    # sigmas 0.9 .. 0.2
    "qwen-image": (
        (QWEN, "hpsv2.1"),
        FLUX_TRAIN
        | {
            "branches": "denoise",
            "k_denoise": (0.0, 0.0),
            "late_weighting": True,
            "loss": "reward",
            "learning_rate": 3e-6,
            "sigma_high": 0.9,
            "sigma_low": 0.2,
        },
        EVALUATION,
    ),
    # the first run as a LoRA: its own rate, one GPU, fewer prompts to judge, at the size that was trained
    "flux1-lora-one-gpu": (
        (FLUX, "hpsv2.1"),
        FLUX_TRAIN
        | {
            "lora_rank": 32,
            "learning_rate": 5e-5,
            "processes": 1,
            "micro_batch_size": 1,
            "compute_dtype": "bfloat16",
        },
        EVALUATION | {"max_prompts": 100, "resolution": 720, "shards": 1},
    ),
}


def published(name, value):
    """The sigmas of the table have three digits; everything else is exact."""
    return pytest.approx(value, abs=5e-4) if name in ("sigma_high", "sigma_low") else value


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_recipe_is_the_published_run(recipe):
    (model, reward), train, sample = PUBLISHED[recipe]
    configs = stage_configs(parameters(recipe))
    assert (configs["fetch_base"]["model"], configs["fetch_base"]["reward"]) == (model, reward)
    for stage, expected in (("train", train), ("sample", sample)):
        assert {name: configs[stage][name] for name in expected} == {n: published(n, v) for n, v in expected.items()}
    drawn = train["steps"] * train["batch_size"]
    assert configs["encode_prompts"]["train_prompts"] == configs["cache_rewards"]["train_prompts"] == drawn
    assert configs["prepare_prompts"]["held_out_prompts"] == sample["max_prompts"]


def test_the_pickscore_range_ends_at_a_step_of_the_published_schedule():
    """Steps 5 to 30 of 50 with shift 3, as the HPSv2.1 range is steps 5 to 25."""
    train = stage_configs(parameters("flux1-dev-pickscore"))["train"]
    shifted = [3 * (1 - step / 50) / (1 + 2 * (1 - step / 50)) for step in (5, 30)]
    assert [train["sigma_high"], train["sigma_low"]] == pytest.approx(shifted, abs=1e-12)


def test_the_demo_is_the_published_method_on_the_tiny_model():
    configs = stage_configs(parameters("demo"))
    changed = {"learning_rate", "batch_size", "steps", "resolution", "processes"}
    for name in FLUX_TRAIN.keys() - changed:
        assert configs["train"][name] == published(name, FLUX_TRAIN[name]), name
    assert configs["fetch_base"]["model"] == "tiny"


# Numbers in the transformer, and the memory of the GPU that the recipe's comment asks for.
@pytest.mark.parametrize(
    ("recipe", "numbers", "gib"),
    [
        ("flux1-dev-hpsv2", 11_901_408_320, 80),
        ("flux1-dev-pickscore", 11_901_408_320, 80),
        ("flux1-lora-one-gpu", 11_901_408_320, 40),
        ("qwen-image", 20_430_401_088, 96),
    ],
)
def test_weights_and_moments_fit_the_gpus_that_a_recipe_asks_for(recipe, numbers, gib):
    train = Train(**stage_configs(parameters(recipe))["train"])
    adapter = numbers // 100 if train.lora_rank else 0
    assert sum(weight_bytes(train, numbers, train.processes, adapter).values()) < 0.95 * gib * GIB


@pytest.mark.parametrize("recipe", sorted(recipe_names()))
def test_a_recipe_names_models_of_the_catalogue_and_takes_a_folder_in_their_place(recipe, tmp_path):
    config = FetchBase(**stage_configs(parameters(recipe))["fetch_base"])
    names = {"base": [config.model], "rewards": [name for name, _ in config.weighted_rewards()]}
    names["rewards"].append(config.held_out_reward)
    for kind, wanted in names.items():
        assert set(wanted) <= set(catalogue()[kind])
    assert set(find_sources(config)) >= {"base", "reward", "held_out"}
    assert find("base", parameters(recipe, [f"model={tmp_path}"]).model).folder == tmp_path


def test_every_recipe_is_documented_and_held_against_the_table():
    rows = [
        line.split("|")[1].strip(" `") for line in DOCS.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"
    ]
    assert sorted(rows) == recipe_names() == sorted([*PUBLISHED, "demo"])
