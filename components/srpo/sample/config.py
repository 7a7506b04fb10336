"""Every default of the `sample` stage."""

import dataclasses
from typing import Literal

from srpo.core.contracts.errors import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is sampled: the same prompts and noise for the base, the tuned model and each earlier release."""

    shard: int = 0
    shards: int = 1
    seed: int = 0
    resolution: int | None = None  # pixels; null is the resolution of the training
    steps: int = 50
    guidance: float = 3.5
    true_guidance: float = 1.0  # of FLUX: above 1, a second model call leads away from the empty prompt
    schedule: Literal["static", "model"] = "static"  # the sampler's: `shift`, or the one that the model comes with
    shift: float = 3.0
    noises: int = 4  # images a prompt and model
    max_prompts: int = 500  # of each split that is judged (rating, held_out)
    compare: tuple[str, ...] = ()  # earlier releases of the same base: a folder, or PLACE@latest, PLACE@id (s3:// too)
    block_size: int = 8  # images a batch; fixed, so that an image's bits do not depend on the number of shards
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"

    def __post_init__(self) -> None:
        for name in ("shards", "steps", "noises", "max_prompts", "block_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "a whole number of at least 1")
        require(self.resolution is None or self.resolution >= 1, "resolution", self.resolution, "at least 1, or null")
        require(0 <= self.shard < self.shards, "shard", self.shard, f"between 0 and shards - 1 = {self.shards - 1}")
        for name in ("guidance", "true_guidance"):
            require(0 <= getattr(self, name) < float("inf"), name, getattr(self, name), "a number of at least 0")
        require(self.shift > 0, "shift", self.shift, "a number above 0")
        unlike = len(set(self.compare)) == len(self.compare) and all(self.compare)
        require(unlike, "compare", list(self.compare), "the addresses of different releases")

    @property
    def static_shift(self) -> float | None:
        """The shift of the sampler's schedule; None for the model's own schedule."""
        return self.shift if self.schedule == "static" else None
