"""What the user may set about prompts."""

from dataclasses import dataclass

from srpo.core.contracts.errors import require


@dataclass(frozen=True, kw_only=True)
class Config:
    """Where the prompts come from, which are kept, and how they are split."""

    sources: tuple[str, ...] = ("tiny",)  # "tiny" (the embedded world) or files: txt, json, jsonl, csv, tsv, parquet
    column: str | None = None  # name of the text; by itself prompt, text or caption is found. Plain text has none
    min_characters: int = 1
    max_characters: int = 2000  # about what 512 tokens hold; what is longer would be cut without a word
    held_out_fraction: float = 0.05  # by hash of the text; sources with splits of their own keep them
    train_prompts: int | None = None  # at most so many of each split, chosen by hash; None keeps all
    held_out_prompts: int | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require(len(self.sources) > 0, "sources", self.sources, "a list with at least one prompt file, or 'tiny'")
        require(len(set(self.sources)) == len(self.sources), "sources", self.sources, "a list that names nothing twice")
        require(self.min_characters >= 1, "min_characters", self.min_characters, "1 or more")
        accepted = f"at least min_characters ({self.min_characters})"
        require(self.max_characters >= self.min_characters, "max_characters", self.max_characters, accepted)
        require(0 < self.held_out_fraction < 1, "held_out_fraction", self.held_out_fraction, "between 0 and 1")
        for name in ("train_prompts", "held_out_prompts"):
            cap = getattr(self, name)
            require(cap is None or cap >= 1, name, cap, "1 or more, or null for all")
