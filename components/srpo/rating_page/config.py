"""Every default of the `rating_page` stage."""

import dataclasses
from typing import Literal

from srpo.core.contracts.errors import require
from srpo.core.ratings.study import Rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is rated, how, and by which rules raters count."""

    mode: Literal["grade", "pair"] = "grade"  # the paper's grades of single images, or pairs with ties
    seed: int = 0  # of the raters' orders and sides; each rater has their own
    max_prompts: int = 500  # those of the split `rating` where there is one; the same number of each category
    noises: int = 1  # images of a prompt and model
    per_rater: int = 0  # prompts that one rater sees, drawn at random; 0 is all
    repeat_share: float = 0.05  # of the items are shown twice: does the rater agree with themselves?
    gold_share: float = 0.05  # and as many have a known answer: spoilt images, and prompts of another image

    # Rules for leaving a rater out, fixed before anybody has rated; each needs three checks of its kind.
    gold_accuracy: float = 0.5  # at least this share of known answers right
    self_agreement: float = 0.4  # at least this share of repeated answers the same
    seconds: float = 1.0  # at least this median time for an item

    # The page.
    inline_megabytes: float = 50.0  # a page up to this size is one file; beyond it, its images are a folder beside it

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "a whole number of at least 0")
        require(1 <= self.max_prompts <= 10_000, "max_prompts", self.max_prompts, "a whole number from 1 to 10000")
        require(1 <= self.noises <= 100, "noises", self.noises, "a whole number from 1 to 100")
        require(self.per_rater >= 0, "per_rater", self.per_rater, "a whole number of at least 0")
        for name in ("repeat_share", "gold_share"):
            require(0 <= getattr(self, name) <= 0.5, name, getattr(self, name), "between 0 and 0.5")
        require(
            0 <= self.inline_megabytes <= 500, "inline_megabytes", self.inline_megabytes, "a number between 0 and 500"
        )
        _ = self.rules

    @property
    def rules(self) -> Rules:
        """The rules as the key holds them."""
        return Rules(gold_accuracy=self.gold_accuracy, self_agreement=self.self_agreement, seconds=self.seconds)
