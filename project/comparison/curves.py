"""Learning curves of runs, as SVG that needs no script."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

# Okabe & Ito 2008: told apart also by those who see few colours.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#8c564b")
WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 28, 12, 40  # margins of the plot, in pixels


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

    Args:
        label: Shown where it is pointed at.
        colour: As in CSS.
        points: (step, value), in order.
    """

    label: str
    colour: str
    points: list[tuple[float, float]]


def colour_of(rank: int) -> str:
    return COLOURS[rank % len(COLOURS)]


def read_curve(directory: Path, metric: str) -> list[tuple[float, float]]:
    """Return (step, value) of a metric that a run logged, empty where it did not."""
    path = directory / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get(metric) and row.get("step")]
    points = [(float(row["step"]) + 1, float(row[metric])) for row in rows]
    return [point for point in points if math.isfinite(point[1])]


def plot(title: str, curves: Sequence[Curve], percent: bool = False) -> str:
    """Return an SVG figure of the curves over optimizer steps; a text where there are none.

    The first tenth of a curve does not stretch the vertical axis; what is above or below that is
    left out where a curve begins, and lies on the edge later.
    """
    factor = 100.0 if percent else 1.0
    curves = [
        Curve(c.label, c.colour, [(x, factor * y) for x, y in c.points]) for c in curves if c.points
    ]
    if not curves:
        return f"<figure><figcaption>{escape(title)}</figcaption>none was logged</figure>"
    last = max(x for curve in curves for x, _ in curve.points)
    settled = [y for curve in curves for x, y in curve.points if x >= curve.points[-1][0] / 10]
    low, high = min(settled), max(settled)
    margin = 0.05 * (high - low) or max(abs(high) * 0.05, 1e-6)
    low, high = low - margin, high + margin

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / last
        down = TOP + (HEIGHT - TOP - BOTTOM) * (high - min(max(y, low), high)) / (high - low)
        return across, down

    unit = ", %" if percent else ""
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>",
    ]
    for value in ticks(low, high):
        _, y = place(0, value)
        ends = f'x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"'
        parts.append(f'<line class="grid" {ends}/>')
        parts.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{value:g}</text>')
    for value in ticks(0, last, about=4):
        x, y = place(value, low)
        parts.append(f'<text class="middle" x="{x:.1f}" y="{y + 18:.1f}">{value:,g}</text>')
    for curve in curves:
        entry = next(i for i, (_, y) in enumerate(curve.points) if low <= y <= high)
        shown = curve.points[max(0, entry - 1) :]
        points = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in shown)
        shape = f'<polyline points="{points}" stroke="{curve.colour}">'
        if len(curve.points) == 1:
            x, y = place(*curve.points[0])
            shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{curve.colour}">'
        closing = "</circle>" if shape.startswith("<circle") else "</polyline>"
        parts.append(f"{shape}<title>{escape(curve.label)}</title>{closing}")
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 4}" class="middle">steps</text></svg>')
    return f"<figure><figcaption>{escape(title + unit)}</figcaption>{''.join(parts)}</figure>"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers in [low, high], about as many as wanted."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda s: abs(math.log(s * power / raw)))
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]
