"""An attack on the blindness of a rating page: everything that its files say short of the pixels, and a classifier.

Whoever reads the pixels sees what a rater sees; compressing them again, say, is a judgement of the image itself. That
is where this attack ends: it takes every byte beside the pixels, every length, name, order and time.
"""

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rating_scenes import data_of, pictures_of
from studies import export

from srpo.core.ratings.study import Study

RATERS = ("ann", "ben", "cho")


def around_the_pixels(data: bytes) -> list[float]:
    """An image file without the colours of its pixels: its length, its headers, its inner structure, its fillings."""
    if data[:2] == b"BM":
        start, width, height = (int.from_bytes(data[place : place + 4], "little") for place in (10, 18, 22))
        row = -(-3 * width // 4) * 4
        rows = np.frombuffer(data[start : start + row * height], np.uint8).reshape(height, row)
        return [len(data), *data[:start], float(rows[:, 3 * width :].sum()), len(data) - start - row * height]
    if data[:4] == b"RIFF":
        lengths = [(*tag, length) for tag, length, _ in riff_chunks(data)]
        return [len(data), *data[:12], *(value for row in lengths for value in row), *data[-32:]]
    if data[:4] == b"\x89PNG":
        chunks = list(png_chunks(data))
        head = chunks[0][1]
        stride = 1 + 3 * int.from_bytes(head[:4], "big")
        filters = zlib.decompress(b"".join(body for tag, body in chunks if tag == b"IDAT"))[::stride]
        lengths = [sum(len(body) for tag, body in chunks if tag == kind) for kind in (b"IDAT", b"juNK")]
        return [len(data), *head, *lengths, *(filters.count(number) for number in range(5))]
    raise ValueError(f"an image that begins with {data[:4]!r}: the attack must learn to read it")


def riff_chunks(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    place = 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        yield data[place : place + 4], length, data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def pixels_in(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def letters(name: str) -> list[float]:
    return [int(letter, 16) for letter in name]


def features_of(study: Study, out: Path, images: dict[str, bytes] | None = None) -> np.ndarray:
    """What the page and three exports say of each item short of the pixels, [items, features], in the page's order.

    ``images`` are looked at in place of the page's own files.
    """
    page, given = out / "page/index.html", images is not None
    data, images, text = data_of(page), images or pictures_of(out), page.read_text(encoding="utf-8")
    shown = [export(study, rater, lambda item, dimension: study.answers[1])["answers"] for rater in RATERS]
    places = [{answer["item"]: index for index, answer in enumerate(answers)} for answers in shown]
    names, rows = list(images), []
    for index, item in enumerate(data["items"]):
        row: list[float] = [index, len(item["prompt"]), *letters(item["id"]), *letters(item["group"])]
        for answers, place in zip(shown, places, strict=True):
            answer = answers[place[item["id"]]]
            row += [place[item["id"]], answer["swapped"], answer["repeat"]]
        for name in item["images"]:
            row += [names.index(name), *letters(name), *around_the_pixels(images[name])]
            if "images" in data and not given:
                row += [text.index(f'"{name}": "'), len(data["images"][name])]
            elif not given:
                row.append((out / f"page/images/{name}.bmp").stat().st_mtime_ns)
        rows.append(row)
    table = np.array(rows, dtype=float)
    # And each number against that of the prompt's other items: is it the larger one?
    groups = np.array([item["group"] for item in data["items"]])
    larger = np.array([(table[at] > table[groups == groups[at]]).mean(0) for at in range(len(table))])
    return np.hstack([table, larger])


def accuracy(features: np.ndarray, label: np.ndarray) -> float:
    """How often a linear classifier is right on images it has not seen (ten folds, ridge regression)."""
    spread = features.std(0)
    columns = (features - features.mean(0)) / np.where(spread > 0, spread, 1)
    columns = np.hstack([columns, np.ones((len(columns), 1))])
    fold = np.random.default_rng(0).permutation(len(label)) % 10
    right = []
    for held in range(10):
        x, y = columns[fold != held], 2.0 * label[fold != held] - 1
        weights = np.linalg.solve(x.T @ x + 5 * np.eye(x.shape[1]), x.T @ y)
        right += list((columns[fold == held] @ weights > 0) == label[fold == held])
    return float(np.mean(right))
