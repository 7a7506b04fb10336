"""Every default of the `cache_rewards` stage."""

import dataclasses

from srpo.core.contracts.errors import require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Control words, and which prompts get text features."""

    positive_words: tuple[str, ...] | None = None  # of the trained rewards; null: those of the catalogue
    negative_words: tuple[str, ...] | None = None
    train_prompts: int = 640  # how many prompts the training will draw
    seed: int = 0  # the run's seed: it decides which prompts are drawn
    batch_size: int = 256

    def __post_init__(self) -> None:
        require(self.train_prompts >= 0, "train_prompts", self.train_prompts, "a whole number of at least 0")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "a whole number of at least 1")
        for name in ("positive_words", "negative_words"):
            words = getattr(self, name)
            require(words is None or len(words) > 0, name, words, "null or a list of at least one word")
