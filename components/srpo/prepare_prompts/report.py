"""The page that shows what the prompts are."""

from pathlib import Path

import jinja2

from srpo.core.reports.page import POLICY
from srpo.prepare_prompts.config import Config
from srpo.prepare_prompts.formats import SPLITS
from srpo.prepare_prompts.summary import Summary

TEMPLATE = Path(__file__).with_name("report.html.j2")
MOST = 20  # rows of a table of categories or sources
TITLES = {"train": "To train on", "held_out": "Held out", "rating": "To rate"}


def render(summary: Summary, config: Config, contents: dict[str, str]) -> str:
    """One self-contained HTML page. Prompts are escaped, never trusted.

    Args:
        contents: what the content of each source is known by.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        policy=POLICY,
        summary=summary,
        splits=[(split, TITLES[split]) for split in SPLITS if summary.splits[split]],
        rating_per_category=config.rating_per_category,
        categories=list(summary.categories.items())[:MOST],
        sources=summary.sources[:MOST],
        contents=contents,
    )
