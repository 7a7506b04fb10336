"""Every default of the `decide` stage."""

import dataclasses

from srpo.core.contracts.errors import require
from srpo.core.storage.locations import destination_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Which release, to which channel, and what must hold."""

    destination: str  # where releases are: a local folder, its file:// URI, or s3://bucket/prefix
    release: str = ""  # its id; "" is what the channel `candidate` points to
    channel: str = "latest"
    who: str = ""  # who promotes, for the record; "" is not stated
    gates: str = ""  # YAML file with gates, minimum_raters and minimum_prompts; "" is the one beside this stage's code

    def __post_init__(self) -> None:
        destination_of(self.destination)
        require(self.channel not in ("", "candidate"), "channel", self.channel, "a channel other than candidate")
