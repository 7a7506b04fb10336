"""The shards' tables as pairs: the same prompt and the same noise before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import SAMPLES, read_table

SHORT = {"reward.srp": "srp", "held_out.score": "held_out"}
MODELS = ("base", "tuned")


@dataclass(frozen=True)
class Pair:
    """One prompt and noise, sampled from both models."""

    prompt_id: str
    prompt: str
    category: str
    split: str
    noise_index: int
    before: Path  # PNG
    after: Path


@dataclass(frozen=True)
class Pairs:
    """All pairs, sorted by prompt and noise whatever the order of the shards; N pairs, K names, D features."""

    pairs: list[Pair]
    names: list[str]  # short names of the scores
    before: NDArray[np.float64]  # [N, K]
    after: NDArray[np.float64]
    cluster: NDArray[np.int64]  # [N]: which prompt, 0..P-1
    features: tuple[NDArray[np.float64], NDArray[np.float64]] | None  # the judge's, before and after, [N, D]

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return int(self.cluster.max()) + 1


def read_pairs(shards: Sequence[Path]) -> Pairs:
    """Read and pair the rows of all shards.

    Raises:
        InputError: a table or an image is missing, an image came twice, a pair lacks a side, scores differ in their
            names or are not finite, or fewer than two prompts are left (a spread over prompts needs two).
    """
    rows: dict[tuple[str, int, str], dict[str, Any]] = {}
    for shard in shards:
        for row in read_table(shard / "samples.parquet", SAMPLES).to_pylist():
            key = (row["prompt_id"], row["noise_index"], row["model"])
            if row["model"] not in MODELS:
                raise InputError(f"{_say(key)} has the model {row['model']!r}: it must be one of {', '.join(MODELS)}")
            if key in rows:
                raise InputError(f"{_say(key)} is in samples twice: each must be there once over all shards")
            rows[key] = row | {"path": shard / row["image"], "scores": dict(row["scores"])}
            if not rows[key]["path"].is_file():
                raise InputError(f"{_say(key)} has the image {row['image']!r}, which is missing beside its table")
    return _pair(rows)


def _pair(rows: dict[tuple[str, int, str], dict[str, Any]]) -> Pairs:
    identities = sorted({key[:2] for key in rows})
    for identity in identities:
        for model in MODELS:
            if (*identity, model) not in rows:
                raise InputError(f"{_say((*identity, model))} is missing: each prompt and noise must have both models")
    prompts = sorted({prompt_id for prompt_id, _ in identities})
    if len(prompts) < 2:
        raise InputError(f"samples hold {len(prompts)} prompts: at least 2 are needed for an interval over prompts")
    sides = [[rows[(*identity, model)] for identity in identities] for model in MODELS]
    keys = sorted(sides[0][0]["scores"])
    numbers = [_scores(side, keys) for side in sides]
    position = {prompt_id: index for index, prompt_id in enumerate(prompts)}
    return Pairs(
        pairs=[
            Pair(
                before["prompt_id"],
                before["prompt"],
                before["category"],
                before["split"],
                before["noise_index"],
                before["path"],
                after["path"],
            )
            for before, after in zip(*sides, strict=True)
        ],
        names=[SHORT.get(key, key.replace(".", "_")) for key in keys],
        before=numbers[0],
        after=numbers[1],
        cluster=np.array([position[prompt_id] for prompt_id, _ in identities]),
        features=_features(sides),
    )


def _scores(side: list[dict[str, Any]], keys: list[str]) -> NDArray[np.float64]:
    for row in side:
        where = _say((row["prompt_id"], row["noise_index"], row["model"]))
        if different := sorted(set(keys) ^ set(row["scores"])):
            raise InputError(f"{where} differs from the others in the score {different[0]!r}: all must have the same")
        for key in keys:
            if row["scores"][key] is None or not np.isfinite(row["scores"][key]):
                raise InputError(f"{where} has the score {key} {row['scores'][key]!r}: it must be a finite number")
    return np.array([[row["scores"][key] for key in keys] for row in side], dtype=np.float64)


def _features(sides: list[list[dict[str, Any]]]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    lengths = {len(row["features"] or ()) for side in sides for row in side}
    if lengths == {0}:
        return None
    if len(lengths) > 1:
        raise InputError(f"samples have judge's features of lengths {sorted(lengths)}: all must have the same")
    before, after = (np.array([row["features"] for row in side], dtype=np.float64) for side in sides)
    return before, after


def _say(key: tuple[str, int, str]) -> str:
    return f"prompt {key[0]}, noise {key[1]}, model {key[2]}"
