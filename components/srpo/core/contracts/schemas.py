"""The tables that cross a stage boundary, as Arrow schemas; each carries its name and version in its metadata.

Identifiers are stable: ``prompt_id`` is the first 16 hex digits of the SHA-256 of the prompt's text unless the source
brought an id of its own.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from srpo.core.contracts.errors import InputError

ROWS_PER_GROUP = 16384  # of a table that is written as a stream


def _schema(name: str, version: int, fields: list[pa.Field]) -> pa.Schema:
    return pa.schema(fields, metadata={"srpo.schema": name, "srpo.schema_version": str(version)})


def _text(name: str) -> pa.Field:
    return pa.field(name, pa.string(), nullable=False)


PROMPTS = _schema(
    "prompts",
    1,
    [
        _text("prompt_id"),
        _text("prompt"),
        _text("category"),  # anime, concept-art, paintings, photo, the source's own, or "" when unknown
        _text("split"),  # train, held_out or rating
        _text("source"),  # file name and line (or row) that the prompt came from
    ],
)

# What the text encoders of the base model gave; tensors are raw little-endian bytes of the dtype and shape that the
# file's metadata names (``srpo.dtype``, ``srpo.prompt_embeds_shape``, ``srpo.pooled_shape``, ``srpo.encoder``).
# FLUX: T5 states and the pooled CLIP feature. Qwen-Image: states padded with zeros to one length, and in ``pooled``
# their mask in the same dtype (1 for a token, 0 for padding); a first row with the empty id is its negative prompt.
EMBEDDINGS = _schema(
    "embeddings",
    1,
    [
        _text("prompt_id"),
        pa.field("prompt_embeds", pa.binary(), nullable=False),
        pa.field("pooled", pa.binary(), nullable=False),
    ],
)

# Unit-norm text features of "<word>. <prompt>" for each reward; the word "" is the plain prompt.
TEXT_FEATURES = _schema(
    "text_features",
    1,
    [
        _text("reward"),  # role in the run: "reward" or "held_out"
        _text("prompt_id"),
        _text("word"),
        pa.field("feature", pa.list_(pa.float32()), nullable=False),
    ],
)

# One row an image. ``scores`` holds every measured number by name (reward.score, reward.srp, held_out.score,
# p_realistic, content, saturation, ...); ``features`` the judge's feature vector, where the model has a judge.
SAMPLES = _schema(
    "samples",
    1,
    [
        _text("prompt_id"),
        _text("prompt"),
        _text("category"),
        _text("split"),
        _text("model"),  # "base", "tuned", or the id of an earlier release
        pa.field("noise_index", pa.int32(), nullable=False),
        _text("image"),  # path of the PNG, relative to the folder of the table
        pa.field("scores", pa.map_(pa.string(), pa.float64()), nullable=False),
        pa.field("features", pa.list_(pa.float32())),
    ],
)

# One row an answer: what one rater said of one item in one dimension, the study's key applied.
RATINGS = _schema(
    "ratings",
    1,
    [
        _text("study"),
        _text("rater"),
        pa.field("position", pa.int32(), nullable=False),  # place in the rater's own order
        _text("item"),
        _text("kind"),  # item, repeat (seen before) or gold (its answer is known)
        _text("prompt_id"),
        _text("category"),
        pa.field("noise_index", pa.int32(), nullable=False),
        _text("model_a"),  # whose image; "" for gold
        _text("model_b"),  # of a pair: whose the other image is; else ""
        _text("dimension"),
        _text("answer"),  # excellent, good, pass or fail; of a pair a, tie or b
        pa.field("correct", pa.bool_()),  # where the answer is known
        pa.field("seconds", pa.float64(), nullable=False),  # spent on the item
    ],
)


def write_table(path: Path, table: pa.Table, schema: pa.Schema, extra: dict[str, str] | None = None) -> None:
    """Write ``table`` as Parquet under ``schema``; ``extra`` is added to the file's metadata.

    The same table gives the same bytes.
    """
    metadata = {**(schema.metadata or {}), **{key.encode(): value.encode() for key, value in (extra or {}).items()}}
    pq.write_table(table.cast(schema).replace_schema_metadata(metadata), path, compression="zstd")


def write_rows(
    path: Path, rows: Iterable[Sequence[Any]], schema: pa.Schema, extra: dict[str, str] | None = None
) -> None:
    """Write ``rows``, tuples in the order of ``schema``, as row groups of :data:`ROWS_PER_GROUP`; memory is constant.

    The same rows give the same bytes.
    """
    metadata = {**(schema.metadata or {}), **{key.encode(): value.encode() for key, value in (extra or {}).items()}}
    rows = iter(rows)
    with pq.ParquetWriter(path, schema.with_metadata(metadata), compression="zstd") as writer:
        while group := list(islice(rows, ROWS_PER_GROUP)):
            columns = zip(*group, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.table(arrays, schema=writer.schema), row_group_size=ROWS_PER_GROUP)


def read_table(path: Path, schema: pa.Schema, rows: pc.Expression | None = None) -> pa.Table:
    """Read a Parquet file that must carry ``schema``: all of it, or ``rows`` (groups without any are not read).

    Raises:
        InputError: the file is missing, cut, or carries another schema or version.
    """
    name = (schema.metadata or {})[b"srpo.schema"].decode()
    try:
        found = pq.read_schema(path).metadata or {}
        for key in (b"srpo.schema", b"srpo.schema_version"):
            expected = (schema.metadata or {})[key]
            if found.get(key) != expected:
                raise InputError(f"{path} has {key.decode()} {found.get(key)!r}: it must be {expected!r}")
        return pq.read_table(path, filters=rows)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} cannot be read as a table of {name}: {error}") from None
