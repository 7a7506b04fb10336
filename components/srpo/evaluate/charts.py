"""Small drawings as inline SVG: intervals, histograms, curves. Colours come from the page's style."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

BINS = 21
LEFT, RIGHT, TOP, BOTTOM = 46, 254, 8, 100  # the field of a curve or a histogram in its 260 x 120 box


def interval(mean: float, low: float, high: float, better: int, scale: float = 0.0) -> Markup:
    """An interval about a zero line; ``better`` is 1, -1, or 0 where neither side is.

    ``scale`` is the value at either end of the drawing, for those that are to be compared; else each has its own.
    """
    scale = scale or max(abs(mean), abs(low), abs(high)) or 1.0
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
        height = 92 * count / counts.max()
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


def overlay(before: NDArray[np.float64], after: NDArray[np.float64], name: str) -> Markup:
    """Values before [N] as bars and after [N] as an outline, in the same bins."""
    every = np.concatenate([before, after])
    low, high = float(every.min()), float(every.max())
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    counts = [np.histogram(values, BINS, (low, high))[0] for values in (before, after)]
    most = max(int(count.max()) for count in counts)

    def x(index: int) -> int:
        return 4 + 12 * index

    heights = [[92 * int(value) / most for value in count] for count in counts]
    bars = "".join(
        f'<rect class="before" x="{x(index)}" y="{100 - height:.1f}" width="12" height="{height:.1f}"/>'
        for index, height in enumerate(heights[0])
        if height
    )
    steps = "".join(f"V{100 - height:.1f}H{x(index + 1)}" for index, height in enumerate(heights[1]))
    return Markup(
        f'<svg viewBox="0 0 260 120" role="img" aria-label="Distribution of {escape(name)} before and after">{bars}'
        f'<path class="after" d="M{x(0)} 100{steps}V100"/><path class="axis" d="M4 100H256"/>'
        f'<text x="4" y="115">{low:.3g}</text><text x="256" y="115" text-anchor="end">{high:.3g}</text></svg>'
    )


def curve(
    points: Sequence[tuple[float, float]],
    name: str,
    marked: float | None,
    allowed: tuple[float, float] | None = None,
) -> Markup:
    """A line through ``points`` (step, value); a dashed line marks the step ``marked``.

    ``allowed`` (low, high) is shaded as far as it is in sight, and one of its edges always is.
    """
    steps, values = [x for x, _ in points], [y for _, y in points]
    first, last = min(steps), max(steps)
    lowest, highest = min(values), max(values)
    if allowed:  # the nearer edge tells how much was left
        edges = [edge for edge in allowed if np.isfinite(edge)]
        near = min(edges, key=lambda edge: min(abs(edge - lowest), abs(edge - highest)))
        lowest, highest = min(lowest, near), max(highest, near)
    rise = highest - lowest

    def x_of(step: float) -> float:
        return LEFT + (step - first) / ((last - first) or 1.0) * (RIGHT - LEFT)

    def y_of(value: float) -> float:
        return BOTTOM - ((value - lowest) / rise if rise else 0.5) * (BOTTOM - TOP)

    places = [(x_of(step), y_of(value)) for step, value in points]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8"/>' for x, y in places) if len(places) <= 40 else ""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    band = ""
    if allowed and rise:
        top, bottom = (y_of(min(max(edge, lowest), highest)) for edge in (allowed[1], allowed[0]))
        band = f'<rect class="band" x="{LEFT}" y="{top:.1f}" width="{RIGHT - LEFT}" height="{bottom - top:.1f}"/>'
        for edge in allowed:
            if lowest <= edge <= highest:
                band += f'<path class="limit" d="M{LEFT} {y_of(edge):.1f}H{RIGHT}"/>'
    inside = marked is not None and first <= marked <= last
    mark = f'<path class="mark" d="M{x_of(marked or 0):.1f} {TOP}V{BOTTOM}"/>' if inside else ""
    lowest_y = BOTTOM if rise else (TOP + BOTTOM) / 2 + 4
    ticks = f'<text x="{LEFT - 6}" y="{lowest_y:g}" text-anchor="end">{tick(lowest)}</text>'
    if rise:
        ticks += f'<text x="{LEFT - 6}" y="{TOP + 6}" text-anchor="end">{tick(highest)}</text>'
    return Markup(
        f'<svg viewBox="0 0 260 120" role="img" aria-label="{escape(name)} over training steps, '
        f'from {values[0]:.4g} to {values[-1]:.4g}">{band}<path class="axis" d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>{mark}'
        f'<g class="curve"><polyline points="{line}"/>{dots}</g>{ticks}'
        f'<text x="{LEFT}" y="115">{first:g}</text>'
        f'<text x="{RIGHT}" y="115" text-anchor="end">{last:g}</text></svg>'
    )


def tick(value: float) -> str:
    """A number that fits beside an axis."""
    return f"{value:.2g}" if abs(value) < 0.1 else f"{value:.3g}"
