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
    max_sequence_length: int = 0  # T5 tokens of a prompt; 0: as the model was trained, 512, and 256 for schnell
    processes: int = 0  # 0: one for each GPU that the pod has; the files do not depend on it

    def __post_init__(self) -> None:
        for name in ("train_prompts", "max_sequence_length", "processes"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "a whole number of at least 0")
