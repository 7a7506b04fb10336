"""Judge rows one by one: tidied, refused with a reason or given a split, by their own text alone."""

from collections import Counter
from collections.abc import Callable, Sequence

from srpo.prepare_prompts import cleaning, sources
from srpo.prepare_prompts.config import Config
from srpo.prepare_prompts.formats import Row, text_lines
from srpo.prepare_prompts.languages import Languages
from srpo.prepare_prompts.rows import Judged
from srpo.prepare_prompts.tokens import Encoder


class Judge:
    """Turns a source's rows into tidied ones, each with its split or the reason why it is refused."""

    def __init__(self, config: Config, encoders: Sequence[Encoder]) -> None:
        self.config, self.encoders = config, encoders
        self.seen = 0
        self.changes: Counter[str] = Counter()  # by step of tidying: rows, not refused at once, that it changed
        self.filters: list[Callable[[str], cleaning.Refusal | None]] = []
        if config.blocklist is not None:
            with sources.open_bytes(config.blocklist) as file:
                self.filters.append(cleaning.Blocklist(text_lines(file, config.blocklist), config.blocklist))
        if config.languages:
            self.filters.append(Languages(config.languages, config.language_confidence))

    def __call__(self, file: int, batch: Sequence[Row]) -> list[Judged]:
        """The rows of a batch, in order."""
        self.seen += len(batch)
        judged = [self._judge(file, row) for row in batch]
        return self._measure(judged) if self.encoders else judged

    def _judge(self, file: int, row: Row) -> Judged:
        text, steps = cleaning.tidy(row.prompt, self.config)
        refused = cleaning.refusal(row.prompt, text, self.config)
        for refuse in self.filters:
            refused = refused or refuse(text)
        if refused is not None:
            return Judged(file, row.line, row.prompt, None, row.category, refused=refused)
        self.changes.update(steps)
        where = cleaning.place(text)
        split = row.split or cleaning.split_of(where, self.config)
        own = row.id if self.config.keep_ids else None
        return Judged(file, row.line, text, own, row.category, split, where)

    def _measure(self, judged: list[Judged]) -> list[Judged]:
        """The rows with their lengths in tokens; what the encoder with a state a token would cut is refused."""
        texts = [row.prompt for row in judged if row.refused is None]
        counts = zip(*(encoder.lengths(texts) for encoder in self.encoders), strict=True)
        limit = None if self.config.max_tokens is None else min(self.config.max_tokens, self.encoders[-1].limit)
        measured = []
        for row in judged:
            if row.refused is None:
                *pooled, length = next(counts)
                row = row._replace(tokens=length, pooled_tokens=pooled[0] if pooled else None)
                if limit is not None and length > limit:
                    row = row._replace(refused=cleaning.Refusal("too many tokens", f"{length} of {limit} tokens"))
            measured.append(row)
        return measured
