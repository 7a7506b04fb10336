"""The statistics of people's ratings for a reader: lines for a terminal, and a page."""

from collections.abc import Mapping
from typing import Any

from srpo.core.ratings.protocol import DIMENSIONS, OVERALL
from srpo.core.reports.page import heading, page, paragraph, table

Summary = Mapping[str, Any]


def lines(summary: Summary) -> list[str]:
    """The report as plain text."""
    shown = [f"study {summary['study']}: {headline(summary)}", ""]
    for title, columns, rows in tables(summary):
        cells = [list(columns), *[[str(cell) for cell in row] for row in rows]]
        widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
        shown.append(title)
        for row in cells:
            shown.append("  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
        shown.append("")
    return [*shown, *notes(summary)]


def report(summary: Summary) -> str:
    """The report as a page of its own."""
    parts = [paragraph(headline(summary))]
    for title, columns, rows in tables(summary):
        parts += [heading(title), table(columns, rows)]
    return page(f"What people said, study {summary['study']}", *parts, *map(paragraph, notes(summary)))


def headline(summary: Summary) -> str:
    """How many raters and prompts, and what came of it, in one sentence."""
    used, all_of_them = len(summary["used"]), len(summary["raters"])
    left_out = f" ({all_of_them - used} left out)" if used < all_of_them else ""
    start = f"{counted(used, 'rater')}{left_out}, {counted(summary['prompts'], 'prompt')}"
    win = summary["net_win"].get(OVERALL)
    if win is None:
        return f"{start}; base and tuned were not compared."
    if used < 2:
        return f"{start}; nothing can be said of other raters than this one."
    says = "better" if win["low"] > 0 else "worse" if win["high"] < 0 else "not clearly different"
    return f"{start}; overall, people find the tuned model {says} (net win rate {interval(win)})."


def counted(number: int, thing: str) -> str:
    """``1 rater``, ``2 raters``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def tables(summary: Summary) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of each table; everything is text."""
    made = []
    if summary["shares"]:
        models = summary["models"]
        rows = [
            [
                title(name),
                *(interval(shares[model], percent=True) for model in models),
                interval(summary["delta"].get(name), percent=True),
            ]
            for name, shares in summary["shares"].items()
        ]
        made.append(("Share of Excellent, %", ["dimension", *models, "tuned less base"], rows))
    if summary["net_win"]:
        rows = [
            [title(name), interval(entry), number(summary["alpha"][name])] for name, entry in summary["net_win"].items()
        ]
        made.append(("Net win rate of tuned over base", ["dimension", "net win rate", "Krippendorff's alpha"], rows))
    if summary["strengths"]:
        rows = [
            [title(name), *(interval(strengths[model]) for model in summary["models"])]
            for name, strengths in summary["strengths"].items()
        ]
        made.append(("Bradley-Terry log-strengths", ["dimension", *summary["models"]], rows))
    rows = [
        [
            name,
            str(rater["answers"]),
            _of(rater["gold"]),
            _of(rater["repeats"]),
            f"{rater['seconds']:.1f}",
            rater["excluded"] or "counted",
        ]
        for name, rater in summary["raters"].items()
    ]
    columns = ["rater", "answers", "gold right", "same again", "seconds an item", ""]
    made.append(("Raters", columns, rows))
    return made


def notes(summary: Summary) -> list[str]:
    """How to read it."""
    return [
        f"Brackets are {summary['confidence']:.0%} intervals over prompts and raters: what other prompts and other "
        "raters would have said. Raters are left out only by the rules that were fixed when the page was made."
    ]


def title(name: str) -> str:
    """A dimension in a reader's words."""
    return DIMENSIONS[name]["title"] if name in DIMENSIONS else name.capitalize()


def interval(entry: Mapping[str, float | None] | None, percent: bool = False) -> str:
    """Mean and interval as text."""
    if entry is None:
        return "-"
    mean, low, high = (number(entry[key], percent) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def number(value: float | None, percent: bool = False) -> str:
    """A number as text: of percent one decimal, else two."""
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if percent else f"{value:.2f}"


def _of(count: Any) -> str:
    right, all_of_them = count
    return f"{right} of {all_of_them}"
