"""Every default of the `collect_ratings` stage."""

import dataclasses

from srpo.core.contracts.errors import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Whose ratings, and of which study."""

    ratings: tuple[str, ...]  # files that the rating page saved, or one table of `srpo ratings import` (.parquet)
    study: str  # the study's key: key.json or its folder
    partial: bool = False  # take raters who stopped early, as far as they came
    confidence: float = 0.95  # of every interval

    def __post_init__(self) -> None:
        require(bool(self.ratings) and all(self.ratings), "ratings", self.ratings, "at least one file")
        require(bool(self.study), "study", self.study, "the study's key: key.json or its folder")
        require(0.5 <= self.confidence < 1, "confidence", self.confidence, "at least 0.5 and below 1")
        tables = [name for name in self.ratings if name.endswith(".parquet")]
        require(not tables or len(self.ratings) == 1, "ratings", self.ratings, "files of raters, or one table alone")
