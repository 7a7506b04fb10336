"""A study: what is rated, under which rules, and the key that says which image is whose.

The key is the study's secret. It stays with whoever runs the study; the page that raters open holds nothing of it.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from srpo.core.contracts.config import from_mapping
from srpo.core.contracts.errors import InputError, cause, require
from srpo.core.ratings.plan import Shown, plan
from srpo.core.ratings.protocol import answers_of, dimensions_of
from srpo.core.storage.files import appearing

KEY = "key.json"
SCHEMA = "srpo.study/1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Who is left out of the statistics: fixed when the page is made, before anybody has rated anything."""

    gold_accuracy: float = 0.5  # at least this share of the gold answers right
    self_agreement: float = 0.4  # at least this share of repeated answers the same
    seconds: float = 1.0  # at least this median time for an item

    def __post_init__(self) -> None:
        for name in ("gold_accuracy", "self_agreement"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        require(0 <= self.seconds < 600, "seconds", self.seconds, "at least 0 and below 600")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gold:
    """The known answer of a gold item."""

    dimension: str
    accepted: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """What is judged at once: one image, or a pair; ``models`` in the order of ``images``."""

    id: str
    group: str  # opaque too: one rater sees all items of a group; a gold item is in one like any other
    prompt_id: str
    category: str
    noise_index: int
    images: tuple[str, ...]  # opaque ids
    models: tuple[str, ...]  # whose they are; "" for a gold item
    gold: Gold | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """The key, as ``key.json`` holds it."""

    study: str
    mode: str
    seed: int
    models: tuple[str, ...]
    items: tuple[Item, ...]
    repeat_share: float
    per_rater: int  # prompts of each rater; 0 is all
    rules: Rules
    checkpoint: str = ""  # key of the training whose model is "tuned": which release the ratings speak of
    schema: str = SCHEMA

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What a rater answers for each item."""
        return dimensions_of(self.mode)

    @property
    def answers(self) -> tuple[str, ...]:
        """What can be answered."""
        return answers_of(self.mode)

    def plan_of(self, rater: str) -> list[Shown]:
        """What ``rater`` is shown, in order."""
        items = {item.id: item.group for item in self.items}
        return plan(f"{self.study}/{self.seed}", rater, items, self.repeat_share, self.per_rater)


def write_study(folder: Path, study: Study) -> None:
    """Write the key into ``folder``, for its owner alone: who reads it rates blind no more."""
    with appearing(folder / KEY) as partial:
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(dataclasses.asdict(study), indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_study(path: Path) -> Study:
    """The study whose key is the file ``path``, or lies in the folder ``path``.

    Raises:
        InputError: there is none, or it is damaged.
    """
    file = path / KEY if path.is_dir() else path
    try:
        value: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"study {str(path)!r} cannot be read ({cause(error)}): it must be the folder of a {KEY}"
        ) from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise InputError(f"{file} is of another schema: it must be {SCHEMA!r}, as the stage rating_page writes it")
    return from_mapping(Study, value, str(file))
