"""Tables of tensors: text embeddings and text features as Parquet, and back."""

import dataclasses
import json
import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import EMBEDDINGS, TEXT_FEATURES, read_table

NEGATIVE = ""  # the id of the negative prompt's row, in embeddings for true guidance
ROWS_PER_GROUP = 8  # a FLUX prompt is 4 MB: a reader that wants one prompt reads 32 MB
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclasses.dataclass(frozen=True)
class EmbeddingsInfo:
    """What an embeddings file says of itself."""

    dtype: str  # "float32" or "bfloat16"
    prompt_embeds_shape: tuple[int, ...]  # (tokens, width)
    pooled_shape: tuple[int, ...]  # (width,)
    encoder: str  # digest of the base model whose encoders made it

    @property
    def row_bytes(self) -> int:
        """Bytes of one prompt's tensors."""
        return (math.prod(self.prompt_embeds_shape) + math.prod(self.pooled_shape)) * ITEM_BYTES[self.dtype]


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
        # Least and greatest tensors mean nothing, and finding them halves the speed.
        only = ["prompt_id"]
        self.writer = pq.ParquetWriter(
            path, self.schema, compression="none", use_dictionary=only, write_statistics=only
        )

    def __enter__(self) -> "EmbeddingsWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        self.writer.close()

    def write(self, prompt_ids: Sequence[str], prompt_embeds: Sequence[bytes], pooled: Sequence[bytes]) -> None:
        """Append rows; tensors are raw little-endian bytes."""
        columns = [list(prompt_ids), list(prompt_embeds), list(pooled)]
        self.writer.write_table(pa.table(columns, schema=self.schema), row_group_size=ROWS_PER_GROUP)


class EmbeddingsReader:
    """Reads embeddings by prompt, row group by row group: memory holds one group, and the rows that were asked for.

    ``path`` is one file or a folder of parts. A caller that knows what it needs next says so to :meth:`prefetch`.
    """

    def __init__(self, path: Path) -> None:
        parts = sorted(path.glob("part-*.parquet")) if path.is_dir() else [path]
        if not parts:
            raise InputError(f"{path} holds no part-*.parquet: it must be what encode_prompts wrote")
        self.places: dict[str, tuple[Path, int, int]] = {}  # part, row group, row
        infos = []
        for part in parts:
            with _open(part) as file:
                infos.append(_info_of(part, file))
                ids = iter(file.read(["prompt_id"])["prompt_id"].to_pylist())
                for group in range(file.num_row_groups):
                    for row in range(file.metadata.row_group(group).num_rows):
                        self.places[next(ids)] = (part, group, row)
        self.info = infos[0]
        if any(info != self.info for info in infos):
            raise InputError(f"{path} holds parts of several encoders: run encode_prompts again")
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="embeddings")
        self.coming: dict[tuple[str, ...], Future[list[tuple[bytes, bytes]]]] = {}
        self.lock = Lock()
        self.held: tuple[Path, int, pa.Table] | None = None
        self.negative = self.read([NEGATIVE])[0] if NEGATIVE in self else None

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self.places

    def prefetch(self, prompt_ids: Sequence[str]) -> None:
        """Begin to read what the next :meth:`read` will ask for, in the background. One such request is kept."""
        wanted = tuple(prompt_ids)
        if wanted not in self.coming:
            self.coming = {wanted: self.thread.submit(self._rows, wanted)}

    def read(self, prompt_ids: Sequence[str]) -> list[tuple[bytes, bytes]]:
        """``(prompt_embeds, pooled)`` of each prompt, as raw bytes.

        Raises:
            InputError: a prompt that is not there.
        """
        coming = self.coming.pop(tuple(prompt_ids), None)
        return coming.result() if coming else self._rows(prompt_ids)

    def _rows(self, prompt_ids: Sequence[str]) -> list[tuple[bytes, bytes]]:
        found: dict[str, tuple[bytes, bytes]] = {}
        for prompt_id in prompt_ids:
            if prompt_id not in self.places:
                raise InputError(f"the embeddings hold no prompt {prompt_id!r}: run encode_prompts for it")
            if prompt_id not in found:
                part, group, row = self.places[prompt_id]
                table = self._group(part, group)
                found[prompt_id] = table["prompt_embeds"][row].as_py(), table["pooled"][row].as_py()
        return [found[prompt_id] for prompt_id in prompt_ids]

    def _group(self, part: Path, group: int) -> pa.Table:
        with self.lock:
            if self.held is None or self.held[:2] != (part, group):
                self.held = None  # let go of one group before the next is read
                with _open(part) as file:
                    self.held = (part, group, file.read_row_group(group))
            return self.held[2]


def _open(part: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(part)
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{part} cannot be read as a table of embeddings: {error}") from None


def _info_of(part: Path, file: pq.ParquetFile) -> EmbeddingsInfo:
    metadata = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
    if metadata.get("srpo.schema") != "embeddings":
        raise InputError(f"{part} has schema {metadata.get('srpo.schema')!r}: it must be 'embeddings'")
    return EmbeddingsInfo(
        dtype=metadata["srpo.dtype"],
        prompt_embeds_shape=tuple(json.loads(metadata["srpo.prompt_embeds_shape"])),
        pooled_shape=tuple(json.loads(metadata["srpo.pooled_shape"])),
        encoder=metadata["srpo.encoder"],
    )


class TextFeaturesWriter:
    """Writes text features batch by batch, reward after reward: memory holds one batch."""

    def __init__(self, path: Path, words: dict[str, dict[str, list[str]]]) -> None:
        """``words``, by reward and side (``positive``, ``negative``), go into the metadata."""
        metadata = {**(TEXT_FEATURES.metadata or {}), b"srpo.words": json.dumps(words).encode()}
        self.schema = TEXT_FEATURES.with_metadata(metadata)
        # Features do not repeat: a dictionary of them would only make the file larger.
        self.writer = pq.ParquetWriter(
            path, self.schema, compression="zstd", use_dictionary=["reward", "prompt_id", "word"]
        )

    def __enter__(self) -> "TextFeaturesWriter":
        return self

    def __exit__(self, *error: Any) -> None:
        self.writer.close()

    def write(self, reward: str, keys: Sequence[tuple[str, str]], features: np.ndarray[Any, Any]) -> None:
        """Append the rows of ``keys`` (prompt id, word) with their ``features [len(keys), D]``, as one row group."""
        offsets = pa.array(np.arange(len(keys) + 1) * features.shape[1], pa.int32())
        values = pa.array(features.astype(np.float32, copy=False).reshape(-1))
        ids, words = zip(*keys, strict=True)
        columns = [pa.array([reward] * len(keys)), pa.array(ids), pa.array(words)]
        self.writer.write_table(
            pa.table([*columns, pa.ListArray.from_arrays(offsets, values)], schema=self.schema),
            row_group_size=len(keys),
        )


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


def read_words(path: Path, reward: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The positive and the negative control words of the role ``reward``, without reading its features."""
    metadata = read_table(path, TEXT_FEATURES, pc.scalar(False)).schema.metadata
    words = json.loads((metadata or {})[b"srpo.words"])[reward]
    return tuple(words["positive"]), tuple(words["negative"])


def read_text_features(path: Path, reward: str) -> TextFeatures:
    """The text features that ``cache_rewards`` computed for the role ``reward`` (``reward`` or ``held_out``).

    Of a reward that has none (image-only or joint) the table holds the control words alone.
    """
    table = read_table(path, TEXT_FEATURES, pc.field("reward") == reward)
    words = read_words(path, reward)
    if not table.num_rows:
        return TextFeatures({}, *words)
    values = np.asarray(table["feature"].combine_chunks().flatten())
    width = len(values) // table.num_rows
    keys = zip(table["prompt_id"].to_pylist(), table["word"].to_pylist(), strict=True)
    features = dict(zip(keys, values.reshape(-1, width), strict=True))
    return TextFeatures(features, *words)
