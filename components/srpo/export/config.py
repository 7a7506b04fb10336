"""Every default of the `export` stage."""

import dataclasses

from srpo.core.contracts.errors import require
from srpo.core.storage.locations import destination_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Where releases go and what is shown beside the weights."""

    destination: str  # a local folder, its file:// URI, or s3://bucket/prefix
    sample_prompts: int = 4  # pairs of images, before and after, in the release and on its model card

    def __post_init__(self) -> None:
        destination_of(self.destination)
        require(self.sample_prompts >= 0, "sample_prompts", self.sample_prompts, "a whole number of at least 0")
