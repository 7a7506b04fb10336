"""What is rated: which images of a run, under opaque names, with some whose answer is known."""

import contextlib
import hashlib
import hmac
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import SAMPLES, read_table
from srpo.core.ratings.agreement import LEAST
from srpo.core.ratings.study import Gold, Item
from srpo.core.ratings.summary import AFTER, BEFORE
from srpo.core.storage.files import digest_of, sha256_of
from srpo.core.storage.releases import inside
from srpo.rating_page.config import Config
from srpo.rating_page.pictures import Pixels, spoil

FIELDS = ("prompt_id", "prompt", "category", "split", "model", "noise_index")
FOREIGN = 0.5  # prompts that share less of their words than this are about different things
ACCEPTED = ("pass", "fail")  # of a gold image: anybody who looks gives it no better


@dataclass(frozen=True)
class Sample:
    """One image of the run."""

    prompt_id: str
    prompt: str
    category: str
    split: str
    model: str
    noise_index: int
    path: Path


class Names:
    """Opaque ids, the same for the same samples, that nobody can compute who has not the sample files themselves.

    The secret is the hash of all of them; their recipes hold the hashes of the tuned weights.
    """

    def __init__(self, samples: Sequence[Sample], settings: Mapping[str, Any]) -> None:
        files = sorted((one.prompt_id, one.noise_index, one.model, sha256_of(one.path)) for one in samples)
        self.secret = digest_of([files, settings]).encode()

    def __call__(self, *parts: object) -> str:
        return self.bytes(*parts)[:6].hex()

    def bytes(self, *parts: object) -> bytes:
        """32 bytes that look random."""
        return hmac.new(self.secret, repr(parts).encode(), hashlib.sha256).digest()

    def generator(self, *parts: object) -> np.random.Generator:
        """Random numbers of their own."""
        return np.random.default_rng(int.from_bytes(self.bytes(*parts)[:16], "big"))


@dataclass(frozen=True)
class Picture:
    """An image of the page: a sample's pixels, read only when they are written (a study can have gigabytes of them)."""

    path: Path
    size: tuple[int, int]  # width, height
    spoilt: bool = False


@dataclass(frozen=True)
class Content:
    """Everything that the page shows and the key explains."""

    items: list[Item]  # by id
    prompts: dict[str, str]  # item: the text that is shown with it
    pictures: dict[str, Picture]  # by opaque name
    models: list[str]


def read_samples(shards: Sequence[Path], config: Config) -> list[Sample]:
    """The images that are rated, by prompt and noise; each prompt and noise has every model's.

    Raises:
        InputError: a table or an image is missing or leads out of its folder, or there is nothing to compare.
    """
    rows = []
    for shard in shards:
        table = shard / "samples.parquet"
        for row in read_table(table, SAMPLES).to_pylist():
            path = inside(shard, row["image"], str(table))
            rows.append(Sample(**{name: row[name] for name in FIELDS}, path=path))
            if not path.is_file():
                raise InputError(f"{table} names {row['image']!r}, which is missing beside it")
    rating = [row for row in rows if row.split == "rating"]
    chosen = choose_prompts(rating or rows, config.max_prompts)
    found: dict[tuple[str, int], dict[str, Sample]] = {}
    for row in sorted(rows, key=lambda row: (row.prompt_id, row.noise_index, row.model)):
        if row.prompt_id in chosen:
            found.setdefault((row.prompt_id, row.noise_index), {})[row.model] = row
    models = {model for sides in found.values() for model in sides}
    if len(models) < 2:
        raise InputError(f"samples hold images of {', '.join(models) or 'nothing'}: at least 2 models are compared")
    whole = [place for place, sides in found.items() if set(sides) == models]
    kept = [
        place for _, group in itertools.groupby(whole, lambda place: place[0]) for place in list(group)[: config.noises]
    ]
    if not kept:
        raise InputError("samples hold no prompt and noise of which every model has an image: there must be some")
    return [found[place][model] for place in kept for model in sorted(models)]


def choose_prompts(rows: Sequence[Sample], most: int) -> set[str]:
    """At most ``most`` prompts, the first of each category in turn."""
    by_category: dict[str, list[str]] = {}
    for row in sorted(rows, key=lambda row: row.prompt_id):
        prompts = by_category.setdefault(row.category, [])
        if not prompts or prompts[-1] != row.prompt_id:
            prompts.append(row.prompt_id)
    turns = itertools.zip_longest(*(by_category[name] for name in sorted(by_category)))
    return set(list(filter(None, itertools.chain(*turns)))[:most])


def make_content(samples: Sequence[Sample], config: Config, names: Names) -> Content:
    """Items for all samples, and gold items among them.

    Raises:
        InputError: an image cannot be read, or the images of one prompt differ in size (which would tell them apart).
    """
    content = Content(
        [], {}, {}, sorted({one.model for one in samples}, key=lambda model: (model != BEFORE, model != AFTER, model))
    )
    for _, group in itertools.groupby(samples, lambda one: (one.prompt_id, one.noise_index)):
        sides = list(group)
        for one in sides:
            content.pictures[image_id(names, one)] = Picture(one.path, read_size(one.path))
        sizes = {content.pictures[image_id(names, one)].size for one in sides}
        if len(sizes) > 1:
            raise InputError(f"images of {sides[0].prompt!r} have sizes {sorted(sizes)}: all models' must be the same")
        shown = [(one,) for one in sides] if config.mode == "grade" else list(itertools.combinations(sides, 2))
        for members in shown:
            # By their opaque names: the order must say nothing of the models.
            ordered = sorted(members, key=lambda one: image_id(names, one))
            _add(content, names, ordered[0], [image_id(names, one) for one in ordered], [one.model for one in ordered])
    gold = int(len(content.items) * config.gold_share + 0.5)
    for number in range(max(gold, LEAST) if config.gold_share else 0):
        add_gold(content, samples, config, names, number)
    content.items.sort(key=lambda item: item.id)
    return content


def add_gold(content: Content, samples: Sequence[Sample], config: Config, names: Names, number: int) -> None:
    """One item whose answer is known: in turn an image that is spoilt, and (of grades) one under a foreign prompt."""
    generator = names.generator("gold", number)
    one = samples[int(generator.integers(len(samples)))]
    whole = content.pictures[image_id(names, one)]
    spoilt = replace(whole, spoilt=True)
    image = names("gold image", number)
    foreign = sorted(
        {other.prompt for other in samples}, key=lambda text: (shared_words(text, one.prompt), names(text))
    )
    if config.mode == "pair":
        content.pictures[image] = spoilt
        again = names("gold copy", number)
        content.pictures[again] = whole
        images = sorted([image, again])
        gold = Gold(dimension="realism", accepted=("a" if images[0] == again else "b",))
        _add(content, names, one, images, ["", ""], gold)
    elif number % 2 and shared_words(foreign[0], one.prompt) < FOREIGN:
        content.pictures[image] = whole
        gold = Gold(dimension="alignment", accepted=ACCEPTED)
        _add(content, names, one, [image], [""], gold, foreign[0])
    else:
        content.pictures[image] = spoilt
        _add(content, names, one, [image], [""], Gold(dimension="realism", accepted=ACCEPTED))


def _add(
    content: Content,
    names: Names,
    one: Sample,
    images: list[str],
    models: list[str],
    gold: Gold | None = None,
    prompt: str = "",
) -> None:
    item = Item(
        id=names("item", *images),
        group=names("group", one.prompt_id),
        prompt_id=one.prompt_id,
        category=one.category,
        noise_index=one.noise_index,
        images=tuple(images),
        models=tuple(models),
        gold=gold,
    )
    content.items.append(item)
    content.prompts[item.id] = prompt or one.prompt


def shared_words(text: str, other: str) -> float:
    """How much two prompts have in common, 0 to 1."""
    left, right = set(text.lower().split()), set(other.lower().split())
    return len(left & right) / max(1, len(left | right))


def image_id(names: Names, one: Sample) -> str:
    """The opaque name of a sample's image."""
    return names("image", one.prompt_id, one.noise_index, one.model)


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of an image file, by its header."""
    with _opened(path) as image:
        return image.size


def pixels_of(picture: Picture, generator: np.random.Generator) -> Pixels:
    """Pixels [H, W, 3] as they are shown, without anything else that the file holds."""
    with _opened(picture.path) as image:
        pixels = np.array(image.convert("RGB"))
    return spoil(pixels, generator) if picture.spoilt else pixels


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from None
