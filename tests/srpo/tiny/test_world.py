"""The procedural world: captions, splits and renders mean what they say."""

from collections import Counter

import numpy as np
import pytest

from srpo.tiny import world

SCENES = world.all_scenes()


def test_there_are_120_scenes_split_evenly():
    held_out = [scene for scene in SCENES if world.split(scene) == "held_out"]
    assert (len(set(SCENES)), len(held_out)) == (120, 32)
    assert set(Counter(scene.shape for scene in held_out).values()) == {8}
    assert set(Counter(scene.colour for scene in held_out).values()) == {5, 6}
    assert set(Counter(scene.background for scene in held_out).values()) == {5, 6}


def test_prompts_cover_every_scene_in_both_templates():
    rows = world.prompts()
    assert Counter(row.split for row in rows) == {"train": 176, "held_out": 64}
    assert len({row.id for row in rows}) == len({row.prompt for row in rows}) == 240
    assert all(world.split(world.parse(row.prompt)) == row.split for row in rows)

    evaluation = world.evaluation_prompts()
    assert len({world.parse(row.prompt) for row in evaluation}) == len(evaluation) == 32
    assert {row.split for row in evaluation} == {"held_out"}
    assert Counter(row.prompt.startswith("a ") and "with" in row.prompt for row in evaluation) == {True: 16, False: 16}


@pytest.mark.parametrize("word", [None, *world.POSITIVE_WORDS, *world.NEGATIVE_WORDS])
def test_parse_inverts_caption(word):
    for scene in SCENES:
        for template in range(len(world.TEMPLATES)):
            assert world.parse(world.caption(scene, template, word)) == scene


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a photo of a cat",
        "a red circle on a blue background!",
        "a pink circle on a blue background",
        "a red circle on a red background",
        "Cubist. a red circle on a blue background",
        "Real. Flat. a red circle on a blue background",
    ],
)
def test_parse_refuses_other_text(text):
    with pytest.raises(ValueError, match=r"caption|expected|two colours"):
        world.parse(text)


def test_render_depends_on_the_seed_alone():
    scene = SCENES[0]
    first, again, other = (world.render(scene, 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("style", [-0.1, 1.1, float("nan")])
def test_render_refuses_styles_out_of_range(style):
    with pytest.raises(ValueError, match="style"):
        world.render(SCENES[0], style, np.random.default_rng(0))


def test_style_mutes_colours_and_dissolves_outline_and_gloss():
    looks = {}
    for style in (0.0, 1.0):
        rng = np.random.default_rng(0)
        images = np.stack([world.render(scene, style, rng) for scene in SCENES]).astype(float)
        high, low = images.max(-1), images.min(-1)
        looks[style] = {
            "saturation": ((high - low) / (high + 1)).mean(),
            "dark": (high < 40).mean(),  # the outline
            "white": (low > 225).mean(),  # the gloss
            "corners": images[:, :6, :6].mean() / images[:, -6:, -6:].mean(),  # light from the upper left
        }
    flat, realistic = looks[0.0], looks[1.0]
    assert flat["saturation"] > realistic["saturation"] + 0.15
    assert flat["dark"] > 0.08 > 0.01 > realistic["dark"]
    assert flat["white"] > 0.003 > 0.001 > realistic["white"]
    assert flat["corners"] == pytest.approx(1, abs=0.01)
    assert realistic["corners"] > 1.3


def test_draws_follow_their_captions():
    rng = np.random.default_rng(0)
    draws = [world.draw(rng, SCENES) for _ in range(4000)]
    assert all(world.parse(draw.caption) == draw.scene for draw in draws)
    assert {draw.scene for draw in draws} == set(SCENES)

    words = [draw.caption.split(". ")[0] if ". " in draw.caption else None for draw in draws]
    plain = [draw.style for draw, word in zip(draws, words, strict=True) if word is None]
    positive = [draw.style for draw, word in zip(draws, words, strict=True) if word in world.POSITIVE_WORDS]
    negative = [draw.style for draw, word in zip(draws, words, strict=True) if word in world.NEGATIVE_WORDS]
    assert len(plain) == pytest.approx(2000, abs=150)
    assert len(positive) + len(negative) + len(plain) == len(draws)
    assert min(positive) > 0.75
    assert max(negative) < 0.15
    assert np.mean(np.array(plain) < 0.25) == pytest.approx(0.8, abs=0.04)
    assert max(plain) > 0.9
