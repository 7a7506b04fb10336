"""A shard's contact sheet: the first of its prompts, every model side by side."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from srpo.core.reports.page import page, paragraph
from srpo.sample.config import Config

PROMPTS = 24
THUMBNAIL = 256  # longest side in pixels
SMALL = 64  # images up to this many pixels are shown as they are


def contact_sheet(config: Config, models: Sequence[str], samples: Path) -> str:
    """A page of thumbnails of the first noise of the shard's first prompts; reads the index row group by row group."""
    shown: dict[tuple[str, int], dict[str, str]] = {}
    prompts: dict[str, str] = {}
    count = 0
    with pq.ParquetFile(samples / "samples.parquet") as index:
        columns = ["prompt_id", "prompt", "model", "noise_index", "image"]
        for batch in index.iter_batches(batch_size=256, columns=columns):
            count += batch.num_rows
            for row in batch.to_pylist():
                key = (row["prompt_id"], row["noise_index"])
                # A shard's blocks may begin inside a prompt: its first noise here may be any.
                fresh = row["prompt_id"] not in prompts and len(shown) < PROMPTS
                if key in shown or fresh:
                    prompts[row["prompt_id"]] = row["prompt"]
                    shown.setdefault(key, {})[row["model"]] = thumbnail(samples / row["image"])
    figures = "".join(figure(prompts[prompt_id], images, models) for (prompt_id, _), images in shown.items())
    return page(
        f"Samples, shard {config.shard + 1} of {config.shards}",
        paragraph(f"{count} images; from left to right {', '.join(models)}, from the same noise."),
        f'<div class="charts">{figures}</div>',
    )


def figure(prompt: str, images: dict[str, str], models: Sequence[str]) -> str:
    """The images of a prompt and noise, one a model, side by side."""
    # The page enlarges what is small by whole pixels; what is large is made smaller, and smoothly.
    smooth = {True: ' style="image-rendering:auto"', False: ""}
    pictures = "".join(
        f'<img src="{images[name]}" width="128" alt="{html.escape(name)}"'
        f"{smooth[images[name].startswith('data:image/webp')]}> "
        for name in models
        if name in images
    )
    return f"<figure>{pictures}<figcaption>{html.escape(prompt)}</figcaption></figure>"


def thumbnail(path: Path) -> str:
    """A data URI of the image: as it is when it is small, else at most ``THUMBNAIL`` pixels wide."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    kind = "PNG" if max(small.size) <= SMALL else "WEBP"
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, kind, **({"optimize": True} if kind == "PNG" else {"quality": 80}))
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
