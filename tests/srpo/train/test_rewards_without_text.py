"""Rewards without text features in a run: what is cached for them, what judges with them, how they are trained on."""

import dataclasses
import json

import pytest
import torch
from tiny_runs import TRAIN, load_step_parts

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.prompts import read_prompts
from srpo.core.contracts.tensors import TextFeatures, read_text_features
from srpo.core.objective import draws
from srpo.core.rewards.convert import convert_reward
from srpo.core.rewards.scores import load_reward
from srpo.core.storage.models import read_models
from srpo.sample.scorers import Scorers
from srpo.train.step import Reward, gradient_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def aesthetic(tiny_run):
    """A reward folder: the tiny CLIP's image tower under a random head of the released form."""
    torch.manual_seed(0)
    source = read_models(tiny_run.artifacts["models"], tiny_run.workspace)["reward"].folder
    sizes = (json.loads((source / "config.json").read_text())["projection_dim"], 16, 8, 4, 2, 1)
    head = {}
    for place, before, after in zip((0, 2, 4, 6, 7), sizes[:-1], sizes[1:], strict=True):
        head |= {f"layers.{place}.weight": torch.randn(after, before), f"layers.{place}.bias": torch.randn(after)}
    torch.save(head, tiny_run.folder / "head.pth")
    files = {path.name: path for path in source.iterdir()} | {"head": tiny_run.folder / "head.pth"}
    convert_reward("aesthetic", files, tiny_run.folder / "aesthetic")
    return tiny_run.folder / "aesthetic"


def models_with(tiny_run, name, **rewards):
    """The models of a run with another reward in a role, as `fetch_base` makes them of a folder."""
    return tiny_run.stage("fetch_base", rewards, (), ("models",), into=tiny_run.folder / name)["models"]


@pytest.fixture(scope="module")
def judged(tiny_run, aesthetic):
    """``(models, text features)`` of a run whose held-out reward is the aesthetic one."""
    models = models_with(tiny_run, "judged", held_out_reward=str(aesthetic))
    made = tiny_run.stage(
        "cache_rewards",
        {"train_prompts": 64},
        ("prompts",),
        ("text_features", "report"),
        into=tiny_run.folder / "judged-features",
        models=models,
    )
    assert "none: it has no text features" in made["report"].read_text()
    return models, made["text_features"]


def test_nothing_is_cached_for_an_image_only_reward(tiny_run, judged):
    table = judged[1] / "text_features.parquet"
    assert read_text_features(table, "held_out") == TextFeatures({}, (), ())
    before, after = (
        read_text_features(path / "text_features.parquet", "reward")
        for path in (tiny_run.artifacts["text_features"], judged[1])
    )
    assert before.features.keys() == after.features.keys()


def test_an_image_only_reward_judges_samples(tiny_run, aesthetic, judged):
    models = read_models(judged[0], tiny_run.workspace)
    prompts = [prompt for prompt in read_prompts(tiny_run.artifacts["prompts"]) if prompt.split == "held_out"][:3]
    pixels = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    scores, _ = Scorers.load(models, judged[1], CPU)(pixels, prompts)
    with torch.no_grad():
        grade = load_reward(aesthetic, CPU)(pixels)
    torch.testing.assert_close(scores["held_out.score"], grade)
    torch.testing.assert_close(scores["held_out.srp"], grade)
    assert {"reward.score", "reward.srp"} <= scores.keys()


@pytest.mark.real
def test_an_image_only_reward_guards_a_run(tiny_run, judged):
    config = TRAIN | {"steps": 1, "guard_every": 1}
    inputs = {"models": judged[0], "text_features": judged[1]}
    outputs = ("checkpoint", "report", "metrics")
    made = tiny_run.stage("train", config, ("prompts", "embeddings"), outputs, tiny_run.folder / "guarded", **inputs)
    rows = [json.loads(line) for line in (made["checkpoint"] / "history.jsonl").read_text().splitlines()]
    readings = [row for row in rows if "held_out" in row]
    assert [row["step"] for row in readings] == [0, 1]
    assert all(row["held_out"] == row["held_out_srp"] for row in readings)


def gradient_of(parts, reward, **changes):
    config, flux, _, texts = parts
    config = dataclasses.replace(config, **{"loss": "reward", **changes})
    gradient_step(config, flux, [reward], texts, 0, [0, 1], 1 / 2)
    found = torch.cat([p.grad.flatten() for p in flux.transformer.parameters() if p.grad is not None])
    flux.transformer.zero_grad(set_to_none=True)
    return found


@pytest.fixture(scope="module")
def parts(tiny_run):
    config, flux, rewards, texts = load_step_parts(tiny_run)
    texts = dataclasses.replace(texts, rewards=texts.rewards | {"reward_2": TextFeatures({}, (), ())})
    return config, flux, rewards, texts


@pytest.mark.parametrize("how", [{"image_pairs": 0.05}, {"reward_form": "plain"}])
def test_an_image_only_reward_is_trained_on(parts, aesthetic, how):
    found = gradient_of(parts, Reward("reward_2", load_reward(aesthetic, CPU), 1.0), **how)
    assert bool(torch.isfinite(found).all())
    assert float(found.abs().max()) > 0


def test_the_pair_of_an_image_only_reward_is_the_image_and_its_noised_copy(parts, aesthetic):
    """The loss of the denoising branch, from the pixels that the reward was shown."""
    config, flux, _, texts = parts
    reward, shown = load_reward(aesthetic, CPU), []

    class Watched(type(reward)):
        def __call__(self, pixels):
            shown.append(pixels.detach())
            return super().__call__(pixels)

    watched = Reward("reward_2", Watched(reward.tower, reward.head), 1.0)
    config = dataclasses.replace(config, image_pairs=0.05, branches="denoise", k_denoise=(0.2, 0.2), loss="reward")
    sums = gradient_step(config, flux, [watched], texts, 0, [0, 1], 1 / 2)
    flux.transformer.zero_grad(set_to_none=True)
    clean, noised = shown
    noise = torch.stack([draws.noise(clean.shape[1:], config.seed, "copy", 0, sample) for sample in (0, 1)])
    torch.testing.assert_close(noised - clean, 0.05 * noise, rtol=0, atol=1e-5)
    with torch.no_grad():
        expected = float((1.2 * reward(clean) - reward(noised)).sum())
    assert sums["reward_denoise"] == pytest.approx(expected, rel=1e-4)


def test_control_words_for_a_reward_without_text_features_are_refused(tiny_run, aesthetic):
    models = models_with(tiny_run, "trained", reward=str(aesthetic))
    made = tiny_run.stage(
        "cache_rewards",
        {"train_prompts": 64},
        ("prompts",),
        ("text_features",),
        into=tiny_run.folder / "trained-features",
        models=models,
    )
    inputs = {"models": models, "text_features": made["text_features"]}
    with pytest.raises(InputError, match=r"reward 'aesthetic' has no text features.*image_pairs.*plain"):
        tiny_run.stage(
            "train", TRAIN, ("prompts", "embeddings"), ("checkpoint",), tiny_run.folder / "refused", **inputs
        )
