"""Tables of tensors: text embeddings and text features as Parquet, and back."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import EMBEDDINGS, TEXT_FEATURES, read_table, write_table

NEGATIVE = ""  # the id of the negative prompt's row, in embeddings for true guidance
ROWS_PER_GROUP = 8  # a FLUX prompt is 4 MB: a reader that wants one prompt reads 32 MB


@dataclasses.dataclass(frozen=True)
class EmbeddingsInfo:
    """What an embeddings file says of itself."""

    dtype: str  # "float32" or "bfloat16"
    prompt_embeds_shape: tuple[int, ...]  # (tokens, width)
    pooled_shape: tuple[int, ...]  # (width,)
    encoder: str  # digest of the base model whose encoders made it


class EmbeddingsWriter:
    """Writes embeddings in batches, uncompressed (they do not compress), in the order given."""

    def __init__(self, path: Path, info: EmbeddingsInfo) -> None:
        metadata = {
            "srpo.dtype": info.dtype,
            "srpo.prompt_embeds_shape": json.dumps(info.prompt_embeds_shape),
            "srpo.pooled_shape": json.dumps(info.pooled_shape),
            "srpo.encoder": info.encoder,
        }
        own = {key.encode(): value.encode() for key, value in metadata.items()}
        self.schema = EMBEDDINGS.with_metadata({**(EMBEDDINGS.metadata or {}), **own})
        self.writer = pq.ParquetWriter(path, self.schema, compression="none", use_dictionary=["prompt_id"])

    def __enter__(self) -> "EmbeddingsWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        self.writer.close()

    def write(self, prompt_ids: Sequence[str], prompt_embeds: Sequence[bytes], pooled: Sequence[bytes]) -> None:
        """Append rows; tensors are raw little-endian bytes."""
        columns = [list(prompt_ids), list(prompt_embeds), list(pooled)]
        self.writer.write_table(pa.table(columns, schema=self.schema), row_group_size=ROWS_PER_GROUP)


class EmbeddingsReader:
    """Reads embeddings by prompt, row group by row group: memory holds one group."""

    def __init__(self, path: Path) -> None:
        try:
            self.file = pq.ParquetFile(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(f"{path} cannot be read as a table of embeddings: {error}") from None
        metadata = {key.decode(): value.decode() for key, value in (self.file.schema_arrow.metadata or {}).items()}
        if metadata.get("srpo.schema") != "embeddings":
            raise InputError(f"{path} has schema {metadata.get('srpo.schema')!r}: it must be 'embeddings'")
        self.info = EmbeddingsInfo(
            dtype=metadata["srpo.dtype"],
            prompt_embeds_shape=tuple(json.loads(metadata["srpo.prompt_embeds_shape"])),
            pooled_shape=tuple(json.loads(metadata["srpo.pooled_shape"])),
            encoder=metadata["srpo.encoder"],
        )
        self.places: dict[str, tuple[int, int]] = {}
        for group in range(self.file.num_row_groups):
            for row, prompt_id in enumerate(self.file.read_row_group(group, ["prompt_id"])["prompt_id"].to_pylist()):
                self.places[prompt_id] = (group, row)
        self.held: tuple[int, pa.Table] | None = None
        self.negative = self.read(NEGATIVE) if NEGATIVE in self else None

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self.places

    def read(self, prompt_id: str) -> tuple[bytes, bytes]:
        """``(prompt_embeds, pooled)`` of a prompt, as raw bytes; raises :class:`InputError` when it is not there."""
        if prompt_id not in self.places:
            raise InputError(f"the embeddings hold no prompt {prompt_id!r}: run encode_prompts for it")
        group, row = self.places[prompt_id]
        if self.held is None or self.held[0] != group:
            self.held = (group, self.file.read_row_group(group))
        table = self.held[1]
        return table["prompt_embeds"][row].as_py(), table["pooled"][row].as_py()


def write_text_features(
    path: Path, rows: Iterable[tuple[str, str, str, np.ndarray[Any, Any]]], words: dict[str, dict[str, list[str]]]
) -> None:
    """Write rows ``(reward, prompt_id, word, feature [D])``; ``words`` (by reward and side) goes into the metadata."""
    columns: list[list[Any]] = [[], [], [], []]
    for row in rows:
        for column, value in zip(columns, row, strict=True):
            column.append(value)
    table = pa.table(
        [
            pa.array(columns[0]),
            pa.array(columns[1]),
            pa.array(columns[2]),
            pa.array(columns[3], pa.list_(pa.float32())),
        ],
        schema=TEXT_FEATURES,
    )
    write_table(path, table, TEXT_FEATURES, {"srpo.words": json.dumps(words)})


@dataclasses.dataclass(frozen=True)
class TextFeatures:
    """Text features of one reward: ``features[prompt_id, word]`` is float32 ``[D]`` of unit norm."""

    features: dict[tuple[str, str], np.ndarray[Any, Any]]
    positive_words: tuple[str, ...]
    negative_words: tuple[str, ...]

    def __call__(self, prompt_id: str, word: str = "") -> np.ndarray[Any, Any]:
        """The feature of ``"<word>. <prompt>"``; raises :class:`InputError` when it was not computed."""
        try:
            return self.features[prompt_id, word]
        except KeyError:
            raise InputError(
                f"no text feature of prompt {prompt_id!r} with the word {word!r}: run cache_rewards"
            ) from None


def read_text_features(path: Path, reward: str) -> TextFeatures:
    """The text features that ``cache_rewards`` computed for the role ``reward`` (``reward`` or ``held_out``)."""
    table = read_table(path, TEXT_FEATURES)
    words = json.loads((table.schema.metadata or {})[b"srpo.words"])[reward]
    table = table.filter(pc.equal(table["reward"], reward))
    values = np.asarray(table["feature"].combine_chunks().flatten())
    width = len(values) // max(1, table.num_rows)
    keys = zip(table["prompt_id"].to_pylist(), table["word"].to_pylist(), strict=True)
    features = dict(zip(keys, values.reshape(-1, width), strict=True))
    return TextFeatures(features, tuple(words["positive"]), tuple(words["negative"]))
