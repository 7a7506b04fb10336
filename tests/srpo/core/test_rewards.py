"""Rewards as training meets them: gradients in the pixels, preprocessing, scores; and statistics of known images."""

import json
import shutil

import numpy as np
import pytest
import torch

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.tensors import TextFeatures
from srpo.core.rewards.dual_encoder import ImageTower, TextTower
from srpo.core.rewards.image_statistics import diversity, image_statistics
from srpo.core.rewards.scores import prompt_scores
from srpo.core.storage.models import read_models
from srpo.tiny import world

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tiny_run):
    torch.set_num_threads(1)
    models = read_models(tiny_run.artifacts["models"], tiny_run.workspace)
    return {role: models[role].folder for role in ("reward", "held_out")}


@pytest.fixture(scope="module", params=["reward", "held_out"])
def tower(request, folders):
    return ImageTower.load(folders[request.param], CPU)


def images(number, size=32):
    """Rendered scenes ``[number, 3, size, size]`` in [0, 1]."""
    scenes = world.all_scenes()[:: 120 // number]
    drawn = [world.render(scene, 0.7, np.random.default_rng(3), size) for scene in scenes[:number]]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255


def reward_of(tower):
    """A reward: the cosine of pixels with a fixed direction."""
    target = torch.nn.functional.normalize(torch.randn(64, generator=torch.Generator().manual_seed(1)), dim=0)
    return lambda pixels: (tower(pixels) * target[: tower(pixels[:1]).shape[-1]]).sum()


def check_gradient(reward, pixels, region):
    """The gradient in ``region`` (a mask) against a central difference along it."""
    pixels = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reward(pixels), pixels)
    along = gradient * region
    norm = float(along.norm())
    assert norm > 1e-3
    step, direction = 0.02, along / along.norm()
    with torch.no_grad():
        found = (reward(pixels + step * direction) - reward(pixels - step * direction)) / (2 * step)
    assert float(found) == pytest.approx(norm, rel=0.02)


@pytest.mark.parametrize("size", [32, 48])
def test_gradient_in_the_pixels_is_that_of_finite_differences(tower, size):
    pixels = images(1, size)
    for rows in (slice(0, size // 2), slice(size // 2, size)):
        for columns in (slice(0, size // 2), slice(size // 2, size)):
            region = torch.zeros_like(pixels)
            region[..., rows, columns] = 1
            check_gradient(reward_of(tower), pixels, region)


@pytest.mark.parametrize("value", [1.3, -0.2])
def test_pixels_out_of_range_still_get_a_gradient(tower, value):
    """A clamp before the reward would leave what is too bright too bright for ever."""
    pixels = images(1)
    pixels[..., 8:24, 8:24] = value
    check_gradient(reward_of(tower), pixels, (pixels == value).float())


def test_normalisation_is_that_of_the_model(folders):
    clip = ImageTower.load(folders["reward"], CPU)
    grey = clip.preprocess(torch.full((1, 3, 32, 32), 0.5))[0, :, 0, 0]
    expected = [(0.5 - 0.48145466) / 0.26862954, (0.5 - 0.4578275) / 0.26130258, (0.5 - 0.40821073) / 0.27577711]
    assert grey.tolist() == pytest.approx(expected, rel=1e-5)


def test_float16_is_refused(folders):
    with pytest.raises(InputError, match=r"torch\.float16.*float32 or bfloat16"):
        ImageTower.load(folders["reward"], CPU, torch.float16)


def test_another_kind_of_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    with pytest.raises(InputError, match=r"'blip'.*aesthetic, clip, image_reward, siglip"):
        ImageTower.load(tmp_path, CPU)


def test_bfloat16_scores_nearly_the_same(folders, tower):
    precise, rough = (
        ImageTower.load(folders["reward"], CPU, dtype)(images(4)) for dtype in (torch.float32, torch.bfloat16)
    )
    assert rough.dtype == torch.float32
    assert float((precise * rough).sum(-1).min()) > 0.999


def test_a_feature_has_unit_norm_and_does_not_depend_on_its_neighbours(tower):
    pixels = images(6)
    together = tower(pixels)
    assert together.norm(dim=-1).tolist() == pytest.approx([1] * 6, abs=1e-5)
    for place in range(6):
        torch.testing.assert_close(tower(pixels[place : place + 1])[0], together[place], rtol=0, atol=1e-5)


def test_every_image_is_scored_under_its_own_prompt():
    texts = TextFeatures(
        {
            ("a", ""): np.array([1, 0, 0], np.float32),
            ("a", "good"): np.array([0, 1, 0], np.float32),
            ("a", "fine"): np.array([0, 0, 1], np.float32),
            ("a", "bad"): np.array([1, 0, 0], np.float32),
            ("b", ""): np.array([0, 1, 0], np.float32),
            ("b", "good"): np.array([1, 0, 0], np.float32),
            ("b", "fine"): np.array([1, 0, 0], np.float32),
            ("b", "bad"): np.array([0, 0, 1], np.float32),
        },
        positive_words=("good", "fine"),
        negative_words=("bad",),
    )
    image = torch.tensor([0.6, 0.8, 0.0])
    scores = prompt_scores(torch.stack([image, image, image]), texts, ["a", "b", "a"])
    assert scores["score"].tolist() == pytest.approx([0.6, 0.8, 0.6])
    # a: mean of 0.8 and 0 less 0.6; b: 0.6 less 0.
    assert scores["srp"].tolist() == pytest.approx([0.4 - 0.6, 0.6, 0.4 - 0.6])


def test_statistics_of_known_images():
    def flat(red, green, blue):
        return torch.tensor([red, green, blue]).reshape(3, 1, 1).expand(3, 8, 8)

    board = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).float().expand(3, 8, 8)
    found = image_statistics(torch.stack([flat(0.5, 0.5, 0.5), flat(1, 0, 0), flat(0, 0, 0), board, flat(0, 0.5, 1)]))
    assert found["saturation"].tolist() == pytest.approx([0, 1, 0, 0, 1], abs=1e-6)
    assert found["contrast"].tolist() == pytest.approx([0, 0, 0, 0.5, 0], abs=1e-6)
    assert found["sharpness"].tolist() == pytest.approx([0, 0, 0, 4, 0], abs=1e-6)


def test_statistics_see_the_pixels_that_a_person_sees():
    seen = torch.tensor([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    beyond = torch.tensor([1.7, -0.4, 0.0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert image_statistics(beyond) == image_statistics(seen)


def test_diversity_is_the_mean_difference_of_pairs():
    levels = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, 1, 1, 1).expand(1, 3, 3, 4, 4)
    assert diversity(levels).tolist() == pytest.approx([(0.5 + 1 + 0.5) / 3])
    assert diversity(levels[:, :1]).tolist() == [0]


def test_the_width_of_features_is_that_of_the_whole_model(folders, tmp_path):
    """The parts of released configurations (laion's ViT-H/14, and so PickScore) state another one."""
    folder = shutil.copytree(folders["reward"], tmp_path / "reward")
    settings = json.loads((folder / "config.json").read_text())
    for part in ("text_config", "vision_config"):
        settings[part]["projection_dim"] = settings["projection_dim"] + 1
    (folder / "config.json").write_text(json.dumps(settings))
    for kind, given in ((ImageTower, images(2)), (TextTower, ["a red circle", "a blue cross"])):
        found, expected = (kind.load(place, CPU)(given) for place in (folder, folders["reward"]))
        assert torch.equal(found, expected)
