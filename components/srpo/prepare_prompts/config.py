"""What the user may set about prompts."""

from dataclasses import dataclass
from typing import Literal

from srpo.core.contracts.errors import require
from srpo.core.contracts.sources import split_weight


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the prompts come from, which are kept, and how they are split."""

    sources: tuple[str, ...] = ("tiny",)  # or files, folders, globs, local or s3://, "a.txt=2" with a weight
    column: str | None = None  # name of the text; by itself prompt, text or caption is found. Plain text has none
    keep_ids: bool = True  # false: ids come from the texts, where sources number their prompts each from 1

    # How a text is tidied. Each step is counted, and can be switched off
    compose_unicode: bool = True  # NFC: letters and their accents become one
    remove_invisible: bool = True  # what a tokenizer sees and a reader does not: zero width, direction marks
    tidy_spaces: bool = True  # white space of every kind becomes one space, none at the ends
    strip_quotes: bool = True  # quotes around the whole prompt, and one left over at an end
    control_characters: Literal["refuse", "remove", "keep"] = "refuse"  # they mean damaged text

    # Which texts are refused. What is equal to another prompt always is: a table holds a text once
    min_characters: int = 1
    max_characters: int = 2000  # about what 512 tokens hold; what is longer would be cut without a word
    max_tokens: int | None = 512  # of the encoder with a state a token, or what that one takes; null: no limit
    languages: tuple[str, ...] = ()  # ISO 639 codes, such as ["en"]; empty takes all, and looks at none
    language_confidence: float = 0.9  # refuse what is so surely another language; short prompts are often unsure
    blocklist: str | None = None  # file, local or s3://, of words and phrases, one a line; "#" starts a comment
    near_duplicates: float | None = None  # refuse from this similarity to an earlier prompt; 0.8 is usual

    # Which prompts serve what, by hash of the text; sources with splits of their own keep them
    held_out_fraction: float = 0.05  # to judge the model with
    rating_fraction: float = 0.0  # for people to rate
    rating_per_category: int | None = None  # of these, the first so many of each category by hash; null: all
    train_prompts: int | None = None  # at most so many of each split, chosen by hash; null keeps all
    held_out_prompts: int | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require(len(self.sources) > 0, "sources", self.sources, "a list with at least one prompt file, or 'tiny'")
        names = [split_weight(source)[0] for source in self.sources]
        require(len(set(names)) == len(names), "sources", self.sources, "a list that names nothing twice")
        require(self.min_characters >= 1, "min_characters", self.min_characters, "1 or more")
        accepted = f"at least min_characters ({self.min_characters})"
        require(self.max_characters >= self.min_characters, "max_characters", self.max_characters, accepted)
        require(0 <= self.language_confidence < 1, "language_confidence", self.language_confidence, "in [0, 1)")
        similarity = self.near_duplicates
        require(similarity is None or 0.5 <= similarity < 1, "near_duplicates", similarity, "0.5 to below 1, or null")
        require(0 < self.held_out_fraction < 1, "held_out_fraction", self.held_out_fraction, "between 0 and 1")
        accepted = f"at least 0, and with held_out_fraction ({self.held_out_fraction}) below 1"
        fits = 0 <= self.rating_fraction < 1 - self.held_out_fraction
        require(fits, "rating_fraction", self.rating_fraction, accepted)
        for name in ("max_tokens", "rating_per_category", "train_prompts", "held_out_prompts"):
            cap = getattr(self, name)
            require(cap is None or cap >= 1, name, cap, "1 or more, or null for all")
