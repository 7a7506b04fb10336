"""The page that shows what the prompts are."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import jinja2

from srpo.prepare_prompts.cleaning import Cleaned, Prompt, place

TEMPLATE = Path(__file__).with_name("report.html.j2")
BINS = 24
EXAMPLES = 8
MOST = 20  # rows of a table of categories or refused prompts


class Bar(NamedTuple):
    """A bar of the histogram: lengths ``low`` up to ``high`` (exclusive), height as a share of the tallest."""

    low: int
    high: int
    prompts: int
    share: float


def histogram(lengths: list[int]) -> list[Bar]:
    """Lengths in at most ``BINS`` bins of equal, round width."""
    longest = max(lengths)
    width = next(w for w in (1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 10**3, 10**4, 10**6, 10**9) if w * BINS > longest)
    counts = Counter(length // width for length in lengths)
    most = max(counts.values())
    return [Bar(i * width, (i + 1) * width, counts[i], counts[i] / most) for i in range(longest // width + 1)]


def render(cleaned: Cleaned, sources: list[tuple[str, str]]) -> str:
    """One self-contained HTML page; ``sources`` are names and SHA-256s. Prompts are escaped, never trusted."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    categories = Counter(row.category for row in cleaned.kept)
    held_out = Counter(row.category for row in cleaned.kept if row.split == "held_out")
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        read=len(cleaned.kept) + len(cleaned.rejected),
        kept=len(cleaned.kept),
        held_out=sum(held_out.values()),
        changed=cleaned.changed,
        reasons=cleaned.reasons(),
        rejected=cleaned.rejected[:MOST],
        refused=len(cleaned.rejected),
        bars=histogram([len(row.prompt) for row in cleaned.kept]),
        categories=[(name or "(none)", n - held_out[name], held_out[name]) for name, n in categories.most_common(MOST)],
        more_categories=max(0, len(categories) - MOST),
        examples=[(split, _examples(cleaned.kept, split)) for split in ("train", "held_out")],
        sources=sources,
    )


def _examples(rows: list[Prompt], split: str) -> list[Prompt]:
    return sorted((row for row in rows if row.split == split), key=lambda row: place(row.prompt))[:EXAMPLES]
