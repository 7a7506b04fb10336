"""Every default of the `export` stage."""

import dataclasses
import math
from typing import Literal

from srpo.core.contracts.errors import require
from srpo.core.storage.locations import destination_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Where releases go and what is shown beside the weights."""

    destination: str  # a local folder, its file:// URI, or s3://bucket/prefix
    formats: tuple[Literal["diffusers", "lora", "original-bf16", "original-fp8"], ...] = ("diffusers", "lora")
    # Licence of each source of prompts, by its name there: passed on. Not known is "not stated"
    prompt_licences: dict[str, str] = dataclasses.field(default_factory=dict)
    sample_prompts: int = 4  # pairs of images, before and after, in the release and on its model card
    rating_page_megabytes: float = 50.0  # a rating page up to this size goes into the release; 0: none does

    def __post_init__(self) -> None:
        destination_of(self.destination)
        weights = {"diffusers", "original-bf16", "original-fp8"} & set(self.formats)
        accepted = "a list that has diffusers, original-bf16 or original-fp8, each once"
        require(bool(weights) and len(set(self.formats)) == len(self.formats), "formats", self.formats, accepted)
        for name, licence in self.prompt_licences.items():
            require(bool(licence.strip()), f"prompt_licences.{name}", licence, "the name of a licence")
        require(self.sample_prompts >= 0, "sample_prompts", self.sample_prompts, "a whole number of at least 0")
        most = self.rating_page_megabytes
        require(0 <= most < math.inf, "rating_page_megabytes", most, "a number of at least 0")
