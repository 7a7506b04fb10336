"""Preprocessing on tensors against PIL, which is what the rewards were trained through."""

import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from srpo.core.contracts.errors import InputError
from srpo.core.rewards.preprocessing import Preprocessing

SIZE = 32
SHAPES = [(96, 96), (80, 80), (96, 128), (131, 97), (24, 24), (20, 50), (32, 64)]  # down, up, odd margins


def prepared(fit, pixels):
    """Pixels as the reward sees them, before they are normalised."""
    plain = Preprocessing(SIZE, torch.zeros(3, 1, 1), torch.ones(3, 1, 1), fit)
    return plain(torch.from_numpy(pixels)[None])[0].numpy()


def by_pil(fit, image):
    """The same by PIL: scaled, then the centre cut out or a black margin added."""
    width, height = image.size
    if fit == "squash":
        return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    if fit == "crop":  # torchvision's Resize and CenterCrop: the longer side is cut down to a whole number
        wide, high = (SIZE * side // min(width, height) for side in (width, height))
        left, top = round((wide - SIZE) / 2), round((high - SIZE) / 2)
        whole = image.resize((wide, high), Image.Resampling.BICUBIC)
        return whole.crop((left, top, left + SIZE, top + SIZE))
    wide, high = (round(side * SIZE / max(width, height)) for side in (width, height))
    right, below = SIZE - wide, SIZE - high
    margins = (right // 2, below // 2, right - right // 2, below - below // 2)
    return ImageOps.expand(image.resize((wide, high), Image.Resampling.BICUBIC), margins, 0)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_pil_in_floating_point(fit, shape):
    """On noise, where every weight of the filter shows; a channel at a time, as PIL has no float RGB."""
    texture = np.random.default_rng(0).random((3, *shape), dtype=np.float32)
    expected = np.stack([np.asarray(by_pil(fit, Image.fromarray(channel))) for channel in texture])
    np.testing.assert_allclose(prepared(fit, texture), expected, atol=1e-5)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_pil_on_an_image_to_one_level(fit, shape):
    """On 8-bit RGB, where PIL rounds between its two passes; away from black and white, where it also cuts off."""
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]]
    waves = [np.sin(rows / 5 + phase) * np.cos(columns / 7 - phase) for phase in (0, 1, 2)]
    grain = np.random.default_rng(1).normal(0, 0.1, (*shape, 3))
    image = (127 + 60 * (np.stack(waves, -1) + grain)).clip(30, 225).astype(np.uint8)
    expected = np.asarray(by_pil(fit, Image.fromarray(image))).transpose(2, 0, 1)
    found = prepared(fit, image.transpose(2, 0, 1).astype(np.float32) / 255)
    assert np.abs(np.round(found * 255) - expected).max() <= 1


def test_the_right_size_is_left_alone():
    image = np.random.default_rng(0).random((3, SIZE, SIZE), dtype=np.float32)
    for fit in ("crop", "pad", "squash"):
        np.testing.assert_array_equal(prepared(fit, image), image)


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_the_gradient_reaches_every_pixel_that_is_seen(fit):
    pixels = torch.full((1, 3, 40, 60), 1.4).requires_grad_()  # too bright: a clamp would stop the gradient
    Preprocessing(SIZE, torch.zeros(3, 1, 1), torch.ones(3, 1, 1), fit)(pixels).sum().backward()
    seen = pixels.grad.abs() > 0
    assert bool(seen[..., 12:48].all())
    assert bool(seen.all()) == (fit != "crop")


def write(folder, **settings):
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def test_it_is_named_in_the_reward_folder(tmp_path):
    values = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    found = Preprocessing.read(write(tmp_path, **values, fit="pad"), 7, torch.device("cpu"))
    assert (found.size, found.fit) == (7, "pad")
    assert found.mean.flatten().tolist() == pytest.approx(values["image_mean"])
    assert found.std.flatten().tolist() == pytest.approx(values["image_std"])
    assert Preprocessing.read(write(tmp_path, **values), 7, torch.device("cpu")).fit == "crop"
    with pytest.raises(InputError, match=r"fit.*'stretch'.*crop, pad, squash"):
        Preprocessing.read(write(tmp_path, **values, fit="stretch"), 7, torch.device("cpu"))
    for bad in ({"image_mean": [0.1]}, values | {"image_std": "x"}, values | {"image_mean": [1, 2]}):
        with pytest.raises(InputError, match="image_mean and image_std"):
            Preprocessing.read(write(tmp_path, **bad), 7, torch.device("cpu"))
