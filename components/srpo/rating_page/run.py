"""Make the rating page of a run's samples: blind, self-contained, and its key apart from it."""

import base64
import dataclasses
import hashlib
import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from srpo.core.contracts.errors import InputError
from srpo.core.execution.stage import Context, Stage, read_manifest
from srpo.core.ratings.plan import repeats_of
from srpo.core.ratings.protocol import DIMENSIONS, GRADES, OVERALL, PAIR_OVERALL
from srpo.core.ratings.study import Study, write_study
from srpo.core.reports.page import page, paragraph, table
from srpo.core.storage.files import readable_size, write_text
from srpo.rating_page.config import Config
from srpo.rating_page.items import Content, Names, make_content, pixels_of, read_samples
from srpo.rating_page.pictures import encode, encoded_length

TEMPLATE = "page.html.j2"
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@dataclass(frozen=True)
class Inputs:
    """The images that are rated, of all shards."""

    samples: tuple[Path, ...]


@dataclass(frozen=True)
class Outputs:
    """The page goes to the raters, the key to nobody: it says which image is whose, and ratings are read with it."""

    page: Path  # index.html, and images/ where the page would be too large for one file
    key: Path  # key.json
    report: Path  # how many of what, and what to do with it


def run(config: Config, inputs: Inputs, outputs: Outputs, context: Context) -> None:
    """Choose what is rated, name it opaquely, add known answers, encode every image alike, write page and key."""
    samples = read_samples(inputs.samples, config)
    names = Names(samples, dataclasses.asdict(config))
    content = make_content(samples, config, names)
    study = Study(
        study=names("study"),
        mode=config.mode,
        seed=config.seed,
        models=tuple(content.models),
        items=tuple(content.items),
        repeat_share=config.repeat_share,
        per_rater=config.per_rater,
        rules=config.rules,
        checkpoint=trained_as(inputs.samples),
    )
    weight = sum(encoded_length(picture.size) for picture in content.pictures.values())
    inline = weight * 4 / 3 <= config.inline_megabytes * 1e6
    images = encoded(content, names, context)
    if not inline:
        write_folder(outputs.page / "images", images)
    write_text(outputs.page / "index.html", render(study, content, dict(images) if inline else None))
    write_study(outputs.key, study)
    write_text(outputs.report, report(study, content, weight, inline))


def trained_as(shards: tuple[Path, ...]) -> str:
    """The key of the training whose model the samples show; "" for samples that no stage made."""
    try:
        return str(read_manifest(shards[0])["inputs"].get("checkpoint", ""))
    except InputError:
        return ""


def encoded(content: Content, names: Names, context: Context) -> Iterator[tuple[str, bytes]]:
    """Name and file of every image, one after the other, in the order of their opaque names."""
    for number, (name, picture) in enumerate(sorted(content.pictures.items()), 1):
        yield name, encode(pixels_of(picture, names.generator("spoil", name)))
        context.progress(number, len(content.pictures))


def write_folder(folder: Path, images: Iterable[tuple[str, bytes]]) -> None:
    """Write the images; all of one time, since how long each took would tell what it was made from."""
    folder.mkdir()
    now = time.time()
    for name, data in images:
        path = folder / f"{name}.bmp"
        path.write_bytes(data)
        os.utime(path, (now, now))


def render(study: Study, content: Content, images: dict[str, bytes] | None) -> str:
    """The page; with ``images`` they are part of it, else it looks for them in ``images/``."""
    environment = Environment(
        loader=PackageLoader("srpo.rating_page", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    template = environment.get_template(TEMPLATE)
    data: dict[str, Any] = {
        "study": study.study,
        "mode": study.mode,
        "seed": study.seed,
        "repeat_share": study.repeat_share,
        "per_rater": study.per_rater,
        "dimensions": questions(study),
        "items": [
            {"id": item.id, "group": item.group, "images": item.images, "prompt": content.prompts[item.id]}
            for item in study.items
        ],
    }
    if images is not None:
        data["images"] = {name: base64.b64encode(image).decode() for name, image in images.items()}
    # Nothing but this very script may run, nothing may be loaded but the images: a second wall behind the escaping.
    source = (resources.files("srpo.rating_page") / TEMPLATE).read_text(encoding="utf-8")
    script = hashlib.sha256(SCRIPT.findall(source)[0].encode()).digest()
    places = "data:" if images is not None else "'self' file:"
    return template.render(data=data, script=base64.b64encode(script).decode(), places=places)


def questions(study: Study) -> list[dict[str, Any]]:
    """The dimensions with their questions and, for grades, what each grade means."""
    found = []
    for name in study.dimensions:
        words = PAIR_OVERALL if name == OVERALL else DIMENSIONS[name]
        found.append(
            {
                "name": name,
                "title": words["title"],
                "question": words["pair" if study.mode == "pair" else "question"],
                "meanings": [] if name == OVERALL else [words[grade] for grade in GRADES],
            }
        )
    return found


def report(study: Study, content: Content, weight: int, inline: bool) -> str:
    """A page for whoever runs the study; it says nothing that the key hides."""
    kept = min(study.per_rater or math.inf, len({item.group for item in study.items}))
    place = "in the page" if inline else "in a folder beside the page"
    rows: list[list[object]] = [
        ["study", study.study],
        ["mode", study.mode],
        ["models", ", ".join(content.models)],
        ["items, with those of known answer", len(study.items)],
        ["prompts of each rater", int(kept)],
        ["shown twice", repeats_of(len(study.items), study.repeat_share) if not study.per_rater else "-"],
        ["images", f"{len(content.pictures)}, {readable_size(weight)}, {place}"],
        ["a rater counts if", describe(study)],
    ]
    return page(
        "Rating page",
        paragraph("Give raters the artifact `page` (index.html and what is beside it), and never the artifact `key`."),
        table(["", ""], rows),
        paragraph("What they save goes to `srpo ratings import FILE... --study KEY`, then to `srpo promote`."),
    )


def describe(study: Study) -> str:
    """The rules in words."""
    rules = study.rules
    return (
        f"at least {rules.gold_accuracy:.0%} of known answers are right, {rules.self_agreement:.0%} of repeated ones "
        f"the same, and the median item took {rules.seconds:g} s"
    )


STAGE = Stage(name="rating_page", config=Config, inputs=Inputs, outputs=Outputs, run=run)
