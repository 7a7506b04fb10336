"""Small self-contained HTML pages: text, tables and line charts; light and dark, no script, no network."""

import html
from collections.abc import Iterable, Sequence

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #6b7280; --line: #d9dce1; --page: #ffffff; --mark: #1f6feb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #9aa3ad; --line: #363b42; --page: #15181c; --mark: #6cb0ff; }
}
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--page); }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .3rem 1rem .3rem 0; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; } td { font-variant-numeric: tabular-nums; }
figure { margin: 0; } figcaption, .soft { color: var(--soft); font-size: .9rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1.5rem; }
svg { width: 100%; height: auto; } .axis { stroke: var(--line); } .curve { stroke: var(--mark); fill: none; }
text { fill: var(--soft); font-size: 11px; } img { image-rendering: pixelated; max-width: 100%; }
"""


# What a page without a script may do: show its own style and pictures. A second wall behind the escaping.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(title: str, *parts: str) -> str:
    """A whole page; ``title`` is text, ``parts`` are HTML made by the functions below."""
    escaped = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escaped}</title><style>{STYLE}</style></head>\n<body><h1>{escaped}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def heading(text: str) -> str:
    """A section's heading."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; every cell is escaped, numbers get at most five significant digits."""
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def curves(charts: dict[str, Sequence[tuple[float, float]]]) -> str:
    """One small line chart for each name, of its points ``(x, y)``; names without points are left out."""
    figures = [_chart(name, points) for name, points in charts.items() if points]
    return f'<div class="charts">{"".join(figures)}</div>'


def _cell(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else html.escape(str(value))


def _chart(name: str, points: Sequence[tuple[float, float]]) -> str:
    width, height, left, bottom = 300, 150, 52, 18
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_span = min(xs), (max(xs) - min(xs)) or 1.0
    y_low, y_span = min(ys), (max(ys) - min(ys)) or 1.0

    def place(x: float, y: float) -> str:
        across = left + (x - x_low) / x_span * (width - left - 6)
        return f"{across:.1f},{height - bottom - (y - y_low) / y_span * (height - bottom - 10):.1f}"

    line = " ".join(place(x, y) for x, y in points)
    return (
        f'<figure><figcaption>{html.escape(name)}</figcaption><svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(name)} from {ys[0]:.4g} to {ys[-1]:.4g}">'
        f'<path class="axis" d="M{left} 4V{height - bottom}H{width - 4}" fill="none"/>'
        f'<polyline class="curve" stroke-width="1.6" points="{line}"/>'
        f'<text x="{left - 4}" y="14" text-anchor="end">{max(ys):.3g}</text>'
        f'<text x="{left - 4}" y="{height - bottom}" text-anchor="end">{min(ys):.3g}</text>'
        f'<text x="{left}" y="{height - 3}">{x_low:.4g}</text>'
        f'<text x="{width - 4}" y="{height - 3}" text-anchor="end">{max(xs):.4g}</text></svg></figure>'
    )
