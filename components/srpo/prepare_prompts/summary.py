"""What the prompts are, in numbers and examples: for the metrics and the page."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from srpo.prepare_prompts.formats import SPLITS
from srpo.prepare_prompts.rows import Rows
from srpo.prepare_prompts.tokens import Encoder

BINS = 24
WIDTHS = (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 10**3, 10**4, 10**6, 10**9)
EXAMPLES = 8  # of each split
REFUSED = 4  # examples of each reason


class Bar(NamedTuple):
    """A bar of a histogram: lengths ``low`` up to ``high`` (exclusive), height as a share of the tallest."""

    low: int
    high: int
    prompts: int
    share: float


class Lengths(NamedTuple):
    """How long the kept prompts are, in a unit: ``characters``, or tokens of an encoder, which takes ``limit``."""

    unit: str
    mean: float
    most: int
    limit: int | None
    over: int  # prompts that are longer than the limit
    bars: list[Bar]


class Source(NamedTuple):
    """What came of one file."""

    name: str
    read: int
    kept: int


class Refused(NamedTuple):
    """An example of a refused prompt."""

    where: str
    reason: str
    detail: str
    prompt: str


@dataclass(frozen=True)
class Summary:
    """Counts, lengths and examples of a run."""

    read: int
    kept: int
    splits: Counter[str]
    changes: dict[str, int]  # by step of tidying
    reasons: dict[str, int]  # the commonest first
    categories: dict[str, Counter[str]]  # the largest first; counts by split
    lengths: list[Lengths]
    examples: dict[str, list[str]]  # by split
    refused: list[Refused]
    sources: list[Source]

    def metrics(self) -> dict[str, float]:
        """All as flat numbers."""
        numbers: dict[str, float] = {"read": self.read, "kept": self.kept, "rejected": self.read - self.kept}
        numbers |= {split: self.splits[split] for split in SPLITS}
        numbers["categories"] = len(self.categories)
        for lengths in self.lengths:
            unit = lengths.unit.replace(" ", "_")
            numbers |= {f"mean_{unit}": lengths.mean, f"max_{unit}": lengths.most}
        numbers |= {f"changed_{step}": count for step, count in sorted(self.changes.items())}
        return numbers | {f"rejected_{reason.replace(' ', '_')}": n for reason, n in sorted(self.reasons.items())}


def summarise(rows: Rows, changes: Counter[str], encoders: Sequence[Encoder]) -> Summary:
    """Count the rows as they are now."""
    counts = rows.query("SELECT split, category, COUNT(*) FROM rows WHERE reason IS NULL GROUP BY split, category")
    splits: Counter[str] = Counter()
    categories: dict[str, Counter[str]] = {}
    for split, category, count in counts:
        splits[split] += count
        categories.setdefault(category, Counter())[split] += count
    reasons = dict(
        rows.query(
            "SELECT reason, COUNT(*) FROM rows WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"
        ).fetchall()
    )
    sources = rows.query(
        "SELECT name, COUNT(n), COUNT(n) - COUNT(reason) FROM files LEFT JOIN rows USING (file) GROUP BY file"
    )
    refused = rows.query(
        "SELECT name || ':' || line, reason, detail, prompt FROM (SELECT *, ROW_NUMBER() OVER "
        "(PARTITION BY reason ORDER BY n) AS nth FROM rows WHERE reason IS NOT NULL) JOIN files USING (file) "
        "WHERE nth <= ? ORDER BY reason, nth",
        REFUSED,
    )
    kept = sum(splits.values())
    units: list[tuple[str, str, int | None]] = [("LENGTH(prompt)", "characters", None)] if kept else []
    if kept and encoders:
        columns = ["tokens", "pooled_tokens"]
        units += [(c, f"tokens of {e.name}", e.limit) for c, e in zip(columns, reversed(encoders), strict=False)]
    return Summary(
        read=kept + sum(reasons.values()),
        kept=kept,
        splits=splits,
        changes=dict(changes),
        reasons=reasons,
        categories=dict(sorted(categories.items(), key=lambda entry: (-entry[1].total(), entry[0]))),
        lengths=[_lengths(rows, *unit) for unit in units],
        examples={split: _examples(rows, split) for split in SPLITS},
        refused=[Refused(*row) for row in refused],
        sources=[Source(*row) for row in sources],
    )


def _lengths(rows: Rows, expression: str, unit: str, limit: int | None) -> Lengths:
    longest, total = rows.query(
        f"SELECT MAX({expression}), SUM({expression}) FROM rows WHERE reason IS NULL"
    ).fetchone()
    width = next(width for width in WIDTHS if width * BINS > longest)
    bins = dict(rows.query(f"SELECT {expression} / {width}, COUNT(*) FROM rows WHERE reason IS NULL GROUP BY 1"))
    most, count = max(bins.values()), sum(bins.values())
    bars = [Bar(i * width, (i + 1) * width, bins.get(i, 0), bins.get(i, 0) / most) for i in range(longest // width + 1)]
    over = rows.query(f"SELECT COUNT(*) FROM rows WHERE reason IS NULL AND {expression} > ?", limit or longest)
    return Lengths(unit, total / count, longest, limit, over.fetchone()[0], bars)


def _examples(rows: Rows, split: str) -> list[str]:
    found = rows.query(
        "SELECT prompt FROM rows WHERE reason IS NULL AND split = ? ORDER BY place, prompt LIMIT ?", split, EXAMPLES
    )
    return [prompt for (prompt,) in found]
