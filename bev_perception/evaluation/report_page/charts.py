"""Charts as inline SVG: they need no script and no network, print well, and take their colours from the page.

Each is drawn for a column of about 400 px, so that its text is read on a phone as well; wider pages set them side by
side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bev_perception.evaluation.report_page.markup import text

WIDTH, HEIGHT = 400, 230
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36
MOST_POINTS = 400  # of a series; of more, the largest of each group is drawn


@dataclass(frozen=True)
class Series:
    """points: (x, y); a None as y is a gap. kind: `line`, `dots`, `dashed` or `bars`, which stand on
    the axis, evenly spaced. color: a number of the page's colours."""

    name: str
    points: Sequence[tuple[float, float | None]]
    kind: str = "line"
    color: int = 0


@dataclass(frozen=True)
class Axis:
    """What is on it, with its unit, and where it ends; None: where the data do, rounded."""

    name: str
    low: float | None = None
    high: float | None = None


def steps(low: float, high: float, count: int = 5) -> list[float]:
    """At most count + 1 round numbers that span low to high."""
    raw = max(high - low, 1e-9) / count
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 10) for k in range(first, max(last, first + 1) + 1)]


def chart(title: str, series: Sequence[Series], x: Axis, y: Axis, alt: str, note: str = "") -> str:
    """A figure. alt: what it shows, for who cannot see it."""
    known = [(px, py) for s in series for px, py in s.points if py is not None and math.isfinite(py)]
    if not known:
        return ""
    columns, rows = (
        steps(
            min(values) if axis.low is None else axis.low, max(values) if axis.high is None else axis.high, 5 - (not k)
        )
        for k, (axis, values) in enumerate(((x, [p[0] for p in known]), (y, [p[1] for p in known])))
    )

    def place(px: float, py: float) -> tuple[float, float]:
        return (
            LEFT + (px - columns[0]) / (columns[-1] - columns[0]) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (py - rows[0]) / (rows[-1] - rows[0]) * (HEIGHT - TOP - BOTTOM),
        )

    grid = "".join(_row(place(columns[0], v)[1], v) for v in rows)
    grid += "".join(_column(place(v, rows[0])[0], v) for v in columns)
    grid += f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{text(x.name)}</text>'
    shapes = "".join(_shape(s, [(a, b) if b is None else place(a, b) for a, b in _thinned(s.points)]) for s in series)
    keys = "".join(f'<span><i class="key k{s.color} {s.kind}"></i>{text(s.name)}</span>' for s in series if s.name)
    return (
        f'<figure class="chart"><figcaption><b>{text(title)}</b> <small>{text(y.name)}</small></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(alt)}">{grid}{shapes}</svg>'
        + (f'<p class="legend">{keys}</p>' if keys else "")
        + (f"<p>{text(note)}</p>" if note else "")
        + "</figure>"
    )


def _row(at: float, value: float) -> str:
    line = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
    return f'{line}<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>'


def _column(at: float, value: float) -> str:
    return f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{value:g}</text>'


def _shape(series: Series, points: Sequence[tuple[float, float | None]]) -> str:
    if series.kind == "dots":
        dots = "".join(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3"/>' for px, py in points if py is not None)
        return f'<g class="c{series.color}">{dots}</g>'
    if series.kind == "bars":
        return f'<g class="c{series.color}">{_bars(points)}</g>'
    parts, pen = [], "M"
    for px, py in points:
        if py is None:
            pen = "M"
            continue
        parts.append(f"{pen}{px:.1f} {py:.1f}")
        pen = "L"
    return f'<path class="c{series.color} {series.kind}" d="{"".join(parts)}"/>'


def _bars(points: Sequence[tuple[float, float | None]]) -> str:
    across = sorted(px for px, _ in points)
    width = 0.8 * min((b - a for a, b in pairwise(across)), default=(WIDTH - LEFT - RIGHT) / 10)
    foot = HEIGHT - BOTTOM
    return "".join(
        f'<rect x="{px - width / 2:.1f}" y="{py:.1f}" width="{width:.1f}" height="{foot - py:.1f}"/>'
        for px, py in points
        if py is not None
    )


def _thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    group = -(-len(points) // MOST_POINTS)
    if group <= 1:
        return list(points)
    parts = [points[k : k + group] for k in range(0, len(points), group)]
    return [max(part, key=lambda p: -math.inf if p[1] is None else p[1]) for part in parts]


@dataclass(frozen=True)
class Span:
    """Of a timeline: from and to in seconds, a number of the page's states, and what it is."""

    start: float
    end: float
    state: int
    said: str


def timeline(rows: Sequence[tuple[str, Sequence[Span]]], end_s: float, alt: str) -> str:
    """One bar a row, with its name; states are coloured, and a pointer at one is told what it is."""
    end_s = max(end_s, 1e-3)
    lines = []
    for name, spans in rows:
        boxes = "".join(
            f'<rect class="s{span.state}" x="{1000 * span.start / end_s:.1f}" '
            f'width="{max(1000 * (span.end - span.start) / end_s, 2):.1f}" height="10">'
            f"<title>{text(span.said)}</title></rect>"
            for span in spans
        )
        bar = f'<svg viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true">{boxes}</svg>'
        lines.append(f"<dt>{text(name)}</dt><dd>{bar}</dd>")
    ticks = f"<dt></dt><dd class='ticks'><span>0 s</span><span>{end_s / 2:.1f} s</span><span>{end_s:.1f} s</span></dd>"
    return f'<dl class="timeline" role="group" aria-label="{text(alt)}">{"".join(lines)}{ticks}</dl>'
