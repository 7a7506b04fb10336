"""Which pairs of images the page shows, and the images as data: URIs."""

import base64
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from srpo.core.contracts.errors import InputError
from srpo.evaluate.pairs import Pair, Pairs
from srpo.evaluate.verdict import JUDGE, REALISTIC, label, show, trained, watched

SMALL = 64  # images up to this many pixels are embedded as they are and enlarged by the browser


class Shown(NamedTuple):
    """A pair of images with its caption."""

    pair: Pair
    before: str  # data: URIs
    after: str
    size: tuple[int, int]  # of the data, in pixels
    small: bool
    changes: list[tuple[str, str]]


class Group(NamedTuple):
    """Pairs that are shown for the same reason."""

    title: str
    note: str
    chosen: list[int]


def extremes(pairs: Pairs, delta: NDArray[np.float64], count: int) -> list[Group]:
    """The most changed pairs, and the best and worst by each reward; every order is stable."""
    spread = pairs.before.std(0)
    change = (np.abs(delta) / np.where(spread > 0, spread, 1)).sum(1)
    groups = [Group("Most changed", "over all scores, in spreads of the base model", order(-change, count))]
    for name in watched(pairs.names):
        if name not in JUDGE:
            values = delta[:, pairs.names.index(name)]
            groups.append(Group(f"Best: {label(name)}", "largest gains", order(-values, count)))
            groups.append(Group(f"Worst: {label(name)}", "largest losses or smallest gains", order(values, count)))
    return groups if count else []


def order(values: NDArray[np.float64], count: int) -> list[int]:
    """The positions of the ``count`` smallest values; equal ones in their order."""
    return [int(index) for index in np.argsort(values, kind="stable")[:count]]


def even(total: int, count: int) -> list[int]:
    """At most ``count`` of ``total`` positions, evenly spread, chosen without a look at the scores."""
    count = min(total, count)
    return [(index * total) // count for index in range(count)]


def picture(pairs: Pairs, index: int, delta: NDArray[np.float64], longest: int) -> Shown:
    """The pair at ``index`` as it is shown; raises InputError when an image cannot be read."""
    pair = pairs.pairs[index]
    (before, size, small), (after, _, _) = thumbnail(pair.before, longest), thumbnail(pair.after, longest)
    names = [name for name in watched(pairs.names) if name in (*trained(pairs.names), "held_out", REALISTIC)]
    changes = [(label(name), show(delta[index, pairs.names.index(name)], sign=True)) for name in names]
    return Shown(pair, before, after, size, small, changes)


def thumbnail(path: Path, longest: int) -> tuple[str, tuple[int, int], bool]:
    """An image as a data: URI, its size there, and whether it is small (kept as it is)."""
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"image {path} cannot be read: {error}") from None
    small = max(image.size) <= SMALL
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        image.save(buffer, "WEBP", quality=80)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", image.size, small
