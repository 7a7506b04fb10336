"""The shards' tables as pairs: the same prompt and the same noise from two models."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srpo.core.contracts.errors import InputError
from srpo.core.contracts.schemas import SAMPLES, read_table

SHORT = {"reward.srp": "srp", "held_out.score": "held_out"}
BASE, TUNED = "base", "tuned"

Key = tuple[str, int]  # prompt id and number of the noise


@dataclass(frozen=True)
class Pair:
    """One prompt and noise, sampled from two models."""

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


@dataclass(frozen=True)
class Samples:
    """What all shards made: the rows of each model by prompt and noise."""

    rows: dict[str, dict[Key, dict[str, Any]]]
    noises: int  # images of a prompt and model, at most
    plan: dict[str, Any] | None  # of the run, where the shards carry one

    @property
    def releases(self) -> list[str]:
        """Earlier releases beside base and tuned model."""
        return sorted(set(self.rows) - {BASE, TUNED})


def read_samples(shards: Sequence[Path]) -> Samples:
    """Read the rows of all shards.

    Raises:
        InputError: a table or an image is missing, an image came twice, a shard of the run's plan is not there or is
            of another run, or base or tuned model have no images.
    """
    rows: dict[str, dict[Key, dict[str, Any]]] = {}
    for shard in shards:
        for row in read_table(shard / "samples.parquet", SAMPLES).to_pylist():
            key = (row["prompt_id"], row["noise_index"])
            of_model = rows.setdefault(row["model"], {})
            if key in of_model:
                raise InputError(f"{_say(row)} is in samples twice: each must be there once over all shards")
            of_model[key] = row | {"path": shard / row["image"], "scores": dict(row["scores"])}
            if not of_model[key]["path"].is_file():
                raise InputError(f"{_say(row)} has the image {row['image']!r}, which is missing beside its table")
    plan = read_plan(shards)
    for model in (BASE, TUNED):
        if model not in rows:
            raise InputError(f"samples hold no images of {model!r}: found are {', '.join(sorted(rows)) or 'none'}")
    counts: dict[str, int] = {}
    for prompt_id, _ in rows[BASE]:
        counts[prompt_id] = counts.get(prompt_id, 0) + 1
    return Samples(rows, max(counts.values()), plan)


def read_plan(shards: Sequence[Path]) -> dict[str, Any] | None:
    """The plan that the shards share, or None where none carries one (a folder that a person put together).

    Raises:
        InputError: the shards are of different runs, or blocks of the plan are in none of them.
    """
    plans = []
    for shard in shards:
        if (shard / "plan.json").is_file():
            try:
                plans.append(json.loads((shard / "plan.json").read_text(encoding="utf-8")))
            except ValueError as error:
                raise InputError(f"{shard / 'plan.json'} cannot be read as JSON: {error}") from None
    if not plans:
        return None
    if len(plans) < len(shards) or len({plan["digest"] for plan in plans}) > 1:
        raise InputError("samples are shards of different runs: all must carry the same plan")
    missing = sorted(set(range(len(plans[0]["blocks"]))) - {block for plan in plans for block in plan["own"]})
    if missing:
        raise InputError(
            f"samples lack {len(missing)} of {len(plans[0]['blocks'])} blocks of the plan, the first is {missing[0]}: "
            f"all {plans[0]['shards']} shards must be there"
        )
    return dict(plans[0])


def pair(samples: Samples, before: str = BASE, after: str = TUNED) -> Pairs:
    """The images of two models, paired.

    Raises:
        InputError: a pair lacks a side, scores differ in their names or are not finite, or fewer than two prompts are
            left (a spread over prompts needs two).
    """
    of_models = [samples.rows[before], samples.rows[after]]
    identities = sorted(set(of_models[0]) | set(of_models[1]))
    for identity in identities:
        for model, rows in zip((before, after), of_models, strict=True):
            if identity not in rows:
                raise InputError(
                    f"prompt {identity[0]}, noise {identity[1]}, model {model} is missing: "
                    "each prompt and noise must be there for every model"
                )
    prompts = sorted({prompt_id for prompt_id, _ in identities})
    if len(prompts) < 2:
        raise InputError(f"samples hold {len(prompts)} prompts: at least 2 are needed for an interval over prompts")
    sides = [[rows[identity] for identity in identities] for rows in of_models]
    keys = sorted(sides[0][0]["scores"])
    numbers = [_scores(side, keys) for side in sides]
    position = {prompt_id: index for index, prompt_id in enumerate(prompts)}
    return Pairs(
        pairs=[
            Pair(
                left["prompt_id"],
                left["prompt"],
                left["category"],
                left["split"],
                left["noise_index"],
                left["path"],
                right["path"],
            )
            for left, right in zip(*sides, strict=True)
        ],
        names=[SHORT.get(key, key.replace(".", "_")) for key in keys],
        before=numbers[0],
        after=numbers[1],
        cluster=np.array([position[prompt_id] for prompt_id, _ in identities]),
        features=_features(sides),
    )


def _scores(side: list[dict[str, Any]], keys: list[str]) -> NDArray[np.float64]:
    for row in side:
        if different := sorted(set(keys) ^ set(row["scores"])):
            raise InputError(
                f"{_say(row)} differs from the others in the score {different[0]!r}: all must have the same"
            )
        for key in keys:
            if row["scores"][key] is None or not np.isfinite(row["scores"][key]):
                raise InputError(f"{_say(row)} has the score {key} {row['scores'][key]!r}: it must be a finite number")
    return np.array([[row["scores"][key] for key in keys] for row in side], dtype=np.float64)


def _features(sides: list[list[dict[str, Any]]]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    lengths = {len(row["features"] or ()) for side in sides for row in side}
    if lengths == {0}:
        return None
    if len(lengths) > 1:
        raise InputError(f"samples have judge's features of lengths {sorted(lengths)}: all must have the same")
    before, after = (np.array([row["features"] for row in side], dtype=np.float64) for side in sides)
    return before, after


def _say(row: dict[str, Any]) -> str:
    return f"prompt {row['prompt_id']}, noise {row['noise_index']}, model {row['model']}"
