"""A procedural world of captioned images: one coloured shape on a coloured background, from flat to realistic.

A scene is a shape, its colour and another colour behind it. A style number in [0, 1] blends two renders of a
scene: *flat* (0: saturated, thick dark outline, white gloss) and *realistic* (1: muted, lit from a corner, soft
shadow, texture, grain). The control words of the SRPO paper name the two ends in captions; a caption without
a word mostly comes with the flat look, so a model trained on this world has something to be aligned away from.

Needs numpy only.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

SHAPES = ("circle", "square", "triangle", "cross")
# Six hues 60 degrees apart: they stay apart when muted.
COLOURS = {
    "red": (230, 30, 30),
    "yellow": (240, 225, 20),
    "green": (25, 190, 40),
    "cyan": (20, 210, 225),
    "blue": (30, 50, 230),
    "purple": (205, 30, 210),
}
TEMPLATES = ("a {colour} {shape} on a {background} background", "a {background} background with a {colour} {shape}")
POSITIVE_WORDS = ("Natural-lighting", "Detail", "Detailed", "Real")
NEGATIVE_WORDS = ("Concept art", "Painting", "Anime", "Flat", "Oil")

# What the words mean, and what a caption without a word comes with.
REALISTIC_FROM = 0.75
FLAT_TO = 0.15
PLAIN_FLAT_TO, PLAIN_FLAT_SHARE = 0.25, 0.8
PLAIN_SHARE = 0.5

JITTER = 0.06  # of half the image's width
OUTLINE = np.array([25.0, 20.0, 30.0])

Split = Literal["train", "held_out"]
Image = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """What an image shows; its style is not part of it."""

    shape: str
    colour: str
    background: str

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"shape {self.shape!r}: expected one of {', '.join(SHAPES)}")
        for colour in (self.colour, self.background):
            if colour not in COLOURS:
                raise ValueError(f"colour {colour!r}: expected one of {', '.join(COLOURS)}")
        if self.colour == self.background:
            raise ValueError(f"a {self.colour} {self.shape} cannot be seen on {self.background}: take two colours")


class Example(NamedTuple):
    """One draw of training data: render(scene, style, ...) belongs to caption."""

    scene: Scene
    style: float
    caption: str


class Prompt(NamedTuple):
    """A row of the prompt table."""

    id: str
    prompt: str
    category: str
    split: Split


def all_scenes() -> list[Scene]:
    """The 120 scenes, in a fixed order."""
    return [Scene(s, c, b) for s in SHAPES for c in COLOURS for b in COLOURS if b != c]


_RANK = {scene: index for index, scene in enumerate(all_scenes())}


def split(scene: Scene) -> Split:
    """88 scenes are "train" (alignment prompts), 32 "held_out" (evaluation); every shape and colour is in both."""
    # 89 and 120 have no common factor: every residue comes once, so 32 are below 32 (8 of each shape).
    return "held_out" if _RANK[scene] * 89 % 120 < 32 else "train"


def caption(scene: Scene, template: int = 0, word: str | None = None) -> str:
    """The scene in words, after a control word if one is given: "<word>. <caption>"."""
    text = TEMPLATES[template].format(shape=scene.shape, colour=scene.colour, background=scene.background)
    return f"{word}. {text}" if word else text


def _pattern(template: str) -> re.Pattern[str]:
    words = "|".join(re.escape(word) for word in POSITIVE_WORDS + NEGATIVE_WORDS)
    fields = {name: f"(?P<{name}>[a-z]+)" for name in ("shape", "colour", "background")}
    return re.compile(rf"(?:(?:{words})\. )?{template.format(**fields)}")


_PATTERNS = [_pattern(template) for template in TEMPLATES]


def parse(text: str) -> Scene:
    """The scene that a caption names; a leading control word is ignored. ValueError for any other text."""
    for pattern in _PATTERNS:
        if match := pattern.fullmatch(text):
            return Scene(**match.groupdict())
    raise ValueError(f"{text!r} is not a caption of this world, such as {caption(all_scenes()[0])!r}")


def prompts() -> list[Prompt]:
    """Every scene in both templates, without control words: 176 rows of "train", 64 of "held_out"."""
    rows = []
    for scene in all_scenes():
        for template in range(len(TEMPLATES)):
            name = f"{scene.colour}-{scene.shape}-on-{scene.background}-{template}"
            rows.append(Prompt(name, caption(scene, template), scene.shape, split(scene)))
    return rows


def evaluation_prompts() -> list[Prompt]:
    """One prompt per held-out scene (32), the templates by turns."""
    held_out = [row for row in prompts() if row.split == "held_out"]
    return [held_out[2 * i + i % 2] for i in range(len(held_out) // 2)]


def draw(rng: np.random.Generator, scenes: Sequence[Scene], flat_share: float = PLAIN_FLAT_SHARE) -> Example:
    """One training example: half the captions have no control word, and most of those (`flat_share`) are flat."""
    scene = scenes[int(rng.integers(len(scenes)))]
    template = int(rng.integers(len(TEMPLATES)))
    kind = rng.random()
    if kind < PLAIN_SHARE:
        word = None
        flat = rng.random() < flat_share
        style = rng.uniform(0, PLAIN_FLAT_TO) if flat else rng.uniform(PLAIN_FLAT_TO, 1)
    elif kind < (1 + PLAIN_SHARE) / 2:
        word, style = POSITIVE_WORDS[rng.integers(len(POSITIVE_WORDS))], rng.uniform(REALISTIC_FROM, 1)
    else:
        word, style = NEGATIVE_WORDS[rng.integers(len(NEGATIVE_WORDS))], rng.uniform(0, FLAT_TO)
    return Example(scene, float(style), caption(scene, template, word))


def render(scene: Scene, style: float, rng: np.random.Generator, size: int = 32) -> Image:
    """An image [size, size, 3] of the scene; style in [0, 1] runs from flat to realistic."""
    if not 0 <= style <= 1:
        raise ValueError(f"style {style}: expected 0 (flat) to 1 (realistic)")
    axis = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(axis, axis)
    dx, dy = rng.uniform(-JITTER, JITTER, 2)
    grain = rng.normal(0, 1, (size, size, 1))
    texture = _smooth_noise(rng, size)
    distance = _distance(scene.shape, x - dx, y - dy)

    pixel = 2 / size
    inside = np.clip(0.5 - distance / pixel, 0, 1)[..., None]
    front, behind = (np.array(COLOURS[name], float) for name in (scene.colour, scene.background))

    # Flat: pure colours, a dark line around the shape, a white spot of gloss.
    line = np.clip(0.5 - (np.abs(distance) - 0.07) / pixel, 0, 1)[..., None]
    spot = np.hypot((x - dx + 0.13) / 1.4, y - dy + 0.15) - 0.085
    gloss = np.clip(0.5 - spot / pixel, 0, 1)[..., None]
    flat = _mix(_mix(_mix(behind, front, inside), OUTLINE, line), np.full(3, 255.0), gloss)

    # Realistic: muted colours, light from the upper left, a shadow to the lower right, a surface.
    muted = _mix(_muted(behind), _muted(front), inside)
    light = 1.0 - 0.28 * (x + y)[..., None] / 2
    relief = 1.0 - 0.22 * inside * (x - dx + y - dy)[..., None]
    cast = _distance(scene.shape, x - dx - 0.2, y - dy - 0.2)
    shadow = 1 - 0.5 * (1 - inside) * np.clip(0.5 - cast / 0.35, 0, 1)[..., None]
    surface = 1 + 0.10 * texture * (1 - 0.5 * inside)
    realistic = muted * light * relief * shadow * surface + 4.0 * grain

    return np.clip(_mix(flat, realistic, style) + 0.5, 0, 255).astype(np.uint8)


def _mix(a: Floats, b: Floats, share: Floats | float) -> Floats:
    return a + (b - a) * share


def _muted(rgb: Floats) -> Floats:
    return 0.58 * rgb + 0.42 * 120


def _smooth_noise(rng: np.random.Generator, size: int) -> Floats:
    """Blotches about a quarter of the image wide, [size, size, 1], around [-1, 1]: coarse enough for a small VAE."""
    knots = rng.normal(0, 1, (6, 6))
    place = np.linspace(0, 5, size)
    weights = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(6)))
    return np.clip(weights @ knots @ weights.T, -2, 2)[..., None]


def _distance(shape: str, x: Floats, y: Floats) -> Floats:
    """Signed distance to the shape's edge, negative inside; the image spans [-1, 1]."""
    if shape == "circle":
        return np.hypot(x, y) - 0.58
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.52
    if shape == "triangle":
        sides = (2 * np.abs(x) - (y + 0.68)) / np.sqrt(5)
        return np.maximum(sides, y - 0.55)
    across = np.maximum(np.abs(x) - 0.64, np.abs(y) - 0.22)
    along = np.maximum(np.abs(x) - 0.22, np.abs(y) - 0.64)
    return np.minimum(across, along)
