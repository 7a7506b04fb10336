"""Finished blocks in the stage's state folder: a shard that was killed goes on behind the last whole one.

A block's folder holds its images, a row for each, and the hashes of both. It appears by one rename, so it is whole or
not there; what the disk damaged since is made again.
"""

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin

from srpo.core.contracts.schemas import SAMPLES, read_table, write_table
from srpo.core.storage.files import appearing, link_tree, list_files, write_json

ROWS = "rows.parquet"
RECORD = "block.json"
ROWS_PER_GROUP = 1024  # of the index; what is held in memory while it is written


def block_folder(state: Path, model: str, number: int) -> Path:
    """Where a block of a model lies."""
    return state / "blocks" / model / f"{number:06d}"


def finished_blocks(state: Path) -> int:
    """How many blocks there are, of all models."""
    return len(list(state.glob("blocks/*/[0-9]*")))


def is_finished(folder: Path) -> bool:
    """Whether the block is there with the very bytes that were written; a damaged one is removed."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = [file for file in list_files(folder) if file["path"] != RECORD]
        if record["files"] == found:
            return True
    except (OSError, ValueError, TypeError, KeyError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return False


def save_block(
    folder: Path,
    images: np.ndarray[Any, np.dtype[np.uint8]],
    rows: Sequence[dict[str, Any]],
    recipes: Sequence[dict[str, Any]],
) -> None:
    """Write ``images`` [B, H, W, 3], each with its recipe inside, and ``rows`` (schema SAMPLES), all or nothing."""
    with appearing(folder) as partial:
        for image, row, recipe in zip(images, rows, recipes, strict=True):
            path = partial / row["image"]
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(image, path, recipe)
        write_table(partial / ROWS, pa.Table.from_pylist(rows, schema=SAMPLES), SAMPLES)
        write_json(partial / RECORD, {"files": list_files(partial)})


def save_png(image: np.ndarray[Any, Any], path: Path, recipe: dict[str, Any]) -> None:
    """A lossless PNG of ``image`` [H, W, 3] with its recipe inside (text chunk ``srpo``, JSON)."""
    info = PngImagePlugin.PngInfo()
    info.add_text("srpo", json.dumps(recipe, sort_keys=True))
    Image.fromarray(image).save(path, pnginfo=info)


def collect(folders: Iterable[Path], samples: Path) -> int:
    """Make ``samples`` hold images/ and samples.parquet of finished blocks, in their order; returns the images' number.

    Images are hard links where the file system allows. Memory holds one row group of the index.
    """
    (samples / "images").mkdir(parents=True, exist_ok=True)
    waiting: list[pa.Table] = []
    total = 0
    with pq.ParquetWriter(samples / "samples.parquet", SAMPLES, compression="zstd") as writer:
        for folder in folders:
            table = read_table(folder / ROWS, SAMPLES)
            for image in table["image"].to_pylist():
                link_tree(folder / image, samples / image)
            waiting.append(table)
            total += table.num_rows
            if sum(map(len, waiting)) >= ROWS_PER_GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.concat_tables(waiting))
    return total
