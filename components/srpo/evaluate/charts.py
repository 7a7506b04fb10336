"""Small drawings as inline SVG: intervals, histograms, curves. Colours come from the page's style."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

BINS = 21


def interval(mean: float, low: float, high: float, better: int) -> Markup:
    """An interval about a zero line, on a scale of its own; ``better`` is 1, -1, or 0 where neither side is."""
    scale = max(abs(mean), abs(low), abs(high)) or 1.0
    left, middle, right = (60 + 54 * value / scale for value in (low, mean, high))
    side = 1 if low > 0 else -1 if high < 0 else 0
    tone = {1: "good", -1: "bad", 0: "plain"}[side * better]
    return Markup(
        f'<svg class="interval {tone}" viewBox="0 0 120 16" aria-hidden="true"><path class="zero" d="M60 1V15"/>'
        f'<path class="bar" d="M{left:.1f} 8H{right:.1f}"/><circle cx="{middle:.1f}" cy="8" r="3.2"/></svg>'
    )


def histogram(differences: NDArray[np.float64], name: str, better: int) -> Markup:
    """Differences [N] in bins of equal width, with a line at zero; bars on the worse side are marked."""
    widest = float(np.abs(differences).max()) or 1.0
    counts, edges = np.histogram(differences, BINS, (-widest * 1.0001, widest * 1.0001))
    bars = []
    for index, count in enumerate(counts):
        middle = (edges[index] + edges[index + 1]) / 2 if index != BINS // 2 else 0.0
        tone = {1: "good", -1: "bad", 0: "plain"}[int(np.sign(middle)) * better]
        height = 96 * count / counts.max()
        bars.append(
            f'<rect class="{tone}" x="{12 * index + 4:.0f}" y="{100 - height:.1f}" width="11" height="{height:.1f}">'
            f"<title>{edges[index]:+.3g} to {edges[index + 1]:+.3g}: {count}</title></rect>"
        )
    middle_x = 4 + 6 * BINS
    return Markup(
        f'<svg viewBox="0 0 260 120" role="img" aria-label="Histogram of differences in {escape(name)}">'
        f'{"".join(bars)}<path class="axis" d="M4 100H256"/><path class="zero" d="M{middle_x - 0.5} 0V104"/>'
        f'<text x="4" y="115">−{widest:.2g}</text><text x="{middle_x}" y="115" text-anchor="middle">0</text>'
        f'<text x="256" y="115" text-anchor="end">+{widest:.2g}</text></svg>'
    )


def curve(points: Sequence[tuple[float, float]], name: str, marked: float | None) -> Markup:
    """A line through ``points`` (step, value); a dashed line marks the step ``marked``."""
    left, right, top, bottom = 46, 254, 8, 100
    steps, values = [x for x, _ in points], [y for _, y in points]
    first, span = min(steps), (max(steps) - min(steps)) or 1.0
    lowest, rise = min(values), max(values) - min(values)

    def x_of(step: float) -> float:
        return left + (step - first) / span * (right - left)

    places = [
        (x_of(step), bottom - ((value - lowest) / rise if rise else 0.5) * (bottom - top)) for step, value in points
    ]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8"/>' for x, y in places) if len(places) <= 40 else ""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    inside = marked is not None and first <= marked <= max(steps)
    mark = f'<path class="mark" d="M{x_of(marked or 0):.1f} {top}V{bottom}"/>' if inside else ""
    lowest_y = bottom if rise else (top + bottom) / 2 + 4
    ticks = f'<text x="{left - 6}" y="{lowest_y:g}" text-anchor="end">{lowest:.3g}</text>'
    if rise:
        ticks += f'<text x="{left - 6}" y="{top + 6}" text-anchor="end">{max(values):.3g}</text>'
    return Markup(
        f'<svg viewBox="0 0 260 120" role="img" aria-label="{escape(name)} over training steps, '
        f'from {values[0]:.4g} to {values[-1]:.4g}"><path class="axis" d="M{left} {top}V{bottom}H{right}"/>{mark}'
        f'<g class="curve"><polyline points="{line}"/>{dots}</g>{ticks}'
        f'<text x="{left}" y="115">{first:g}</text>'
        f'<text x="{right}" y="115" text-anchor="end">{max(steps):g}</text></svg>'
    )
