"""Every default of the `encode_prompts` stage."""

import dataclasses
from typing import Literal

from srpo.core.contracts.errors import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Which prompts are encoded, and how."""

    train_prompts: int = 640  # how many prompts the training will draw
    seed: int = 0  # the run's seed: it decides which prompts are drawn
    dtype: Literal["float32", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        require(self.train_prompts >= 0, "train_prompts", self.train_prompts, "a whole number of at least 0")
