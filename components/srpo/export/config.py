"""Every default of the `export` stage."""

import dataclasses
from pathlib import Path
from urllib.parse import unquote, urlsplit

from srpo.core.contracts.errors import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Where releases go and what is shown beside the weights."""

    destination: str  # a local folder, or its file:// URI
    sample_prompts: int = 4  # pairs of images, before and after, in the release and on its model card

    def __post_init__(self) -> None:
        accepted = "the path of a local folder (or its file:// URI)"
        parts = urlsplit(self.destination)
        local = "://" not in self.destination or (parts.scheme == "file" and parts.netloc in ("", "localhost"))
        require(local and bool(self.destination.strip()), "destination", self.destination, accepted)
        require(self.sample_prompts >= 0, "sample_prompts", self.sample_prompts, "a whole number of at least 0")

    @property
    def folder(self) -> Path:
        """The destination as an absolute path."""
        uri = self.destination.startswith("file://")
        return Path(unquote(urlsplit(self.destination).path) if uri else self.destination).absolute()
