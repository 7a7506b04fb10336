"""Nothing of the page but pixels tells whose an image is; and the attack that says so would have found it."""

import io
import struct

import numpy as np
import pytest
from PIL import Image
from rating_scenes import Scene, data_of, pictures_of
from unblinding import accuracy, around_the_pixels, features_of, pixels_in

from srpo.rating_page.pictures import encoded_length

TO = 4096  # bytes that every leaking file is padded to


def webp(pixels: np.ndarray) -> bytes:
    """Padded to one length; but inside, the length of the compressed chunk is still that of the image."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True)
    data = buffer.getvalue()
    fill = TO - len(data) - 8
    return data[:4] + struct.pack("<I", TO - 8) + data[8:] + b"JUNK" + struct.pack("<I", fill) + bytes(fill)


def png(level: int):
    """Padded to one length; compressed by ``level``. At 0 nothing is, but rows begin with filters that suit them."""

    def encode(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=level)
        data, end = buffer.getvalue()[:-12], buffer.getvalue()[-12:]
        body = bytes(TO - len(data) - 24)
        return data + struct.pack(">I4s", len(body), b"juNK") + body + bytes(4) + end

    return encode


@pytest.mark.parametrize("inline", [True, False])
def test_an_attack_on_grades_finds_nothing(tmp_path, inline):
    """Base is flat and tuned is noise: files as they were sampled give it away at once."""
    scene = Scene(tmp_path, prompts=150, noises=1, size=24, widths=3)
    out = scene.make(gold_share=0.0, inline_megabytes=50.0 if inline else 0.0)
    study = scene.study(out)
    assert (out / "page/images").is_dir() != inline
    items = {item.id: item for item in study.items}
    shown = data_of(out / "page/index.html")["items"]
    label = np.array([items[item["id"]].models[0] == "tuned" for item in shown])
    assert sum(label) == 150
    assert 0.39 < accuracy(features_of(study, out), label) < 0.61  # 300 images: chance is 0.5 +- 0.09
    originals = np.array([[(scene.root / "samples" / row["image"]).stat().st_size] for row in scene.rows], float)
    assert accuracy(originals, np.array([row["model"] == "tuned" for row in scene.rows])) == 1
    # And it would be found: in files of one length whose inside has another, or whose rows are filtered.
    for leak in (webp, png(6), png(0)):
        images = {name: leak(pixels_in(data)) for name, data in pictures_of(out).items()}
        assert {len(data) for data in images.values()} == {TO}
        assert accuracy(features_of(study, out, images), label) > 0.95


def test_an_attack_on_pairs_finds_nothing(tmp_path):
    scene = Scene(tmp_path, prompts=200, noises=1, size=16)
    out = scene.make(mode="pair", gold_share=0.0)
    study = scene.study(out)
    items = {item.id: item for item in study.items}
    swapped = {shown.item: shown.swapped for shown in study.plan_of("ann") if not shown.repeat}
    shown = [items[item["id"]] for item in data_of(out / "page/index.html")["items"]]
    first = np.array([item.models[0] == "tuned" for item in shown])
    left = np.array([item.models[int(swapped[item.id])] == "tuned" for item in shown])
    features = features_of(study, out)
    for label in (first, left):
        assert 0.38 < np.mean(label) < 0.62
        assert 0.36 < accuracy(features, label) < 0.64  # 200 pairs
    leaking = {name: webp(pixels_in(data)) for name, data in pictures_of(out).items()}
    assert accuracy(features_of(study, out, leaking), first) > 0.95


@pytest.mark.parametrize("mode", ["grade", "pair"])
def test_images_of_one_size_differ_in_nothing_but_pixels(tmp_path, mode):
    """Stronger than any classifier, and true of spoilt images, copies and foreign prompts too."""
    scene = Scene(tmp_path, prompts=12, size=23, widths=5)
    out = scene.make(mode=mode, gold_share=0.5, inline_megabytes=0.0)
    by_size = {}
    for data in pictures_of(out).values():
        with Image.open(io.BytesIO(data)) as image:
            by_size.setdefault(image.size, set()).add(tuple(around_the_pixels(data)))
            assert len(data) == encoded_length(image.size)
    assert len(by_size) == 5
    assert {len(around) for around in by_size.values()} == {1}
    assert len({path.stat().st_mtime_ns for path in (out / "page/images").iterdir()}) == 1


def test_the_attack_reads_what_it_is_shown():
    """A row's filling, a byte behind the pixels, a filter: each would be noticed."""
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), "white").save(buffer, "BMP")
    plain = buffer.getvalue()
    filled = plain[: 54 + 15] + b"\1" + plain[54 + 16 :]
    for other in (filled, plain + b"\0", plain[:38] + b"\0" + plain[39:]):
        assert around_the_pixels(other) != around_the_pixels(plain)
    flat, noise = (np.zeros((8, 8, 3), np.uint8), np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    assert around_the_pixels(png(0)(flat)) != around_the_pixels(png(0)(noise))
