"""Boxes, words and arrows as SVG text: small files, readable differences, the same bytes every time."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

FONT = "DejaVu Sans, Verdana, Arial, Helvetica, sans-serif"
INK, GREY, FAINT = "#1f2328", "#6e7781", "#d0d7de"
Point = tuple[float, float]


class Drawing:
    """Elements in the order in which they are drawn, over white. Lengths in pixels, y downwards."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._elements: list[str] = []
        self._colors: list[str] = []  # of arrow heads

    def box(self, x: float, y: float, width: float, height: float, fill: str, line: str, dash: str = "") -> None:
        style = f' stroke-dasharray="{dash}"' if dash else ""
        self._elements.append(
            f'<rect x="{_short(x)}" y="{_short(y)}" width="{_short(width)}" height="{_short(height)}" '
            f'rx="5" fill="{fill}" '
            f'stroke="{line}"{style}/>'
        )

    def text(
        self, x: float, y: float, words: str, size: float = 12, color: str = INK, anchor: str = "start",
        bold: bool = False,
    ) -> None:  # fmt: skip
        """One line; y is its baseline."""
        style = ' font-weight="bold"' * bold
        self._elements.append(
            f'<text x="{_short(x)}" y="{_short(y)}" font-size="{size:g}" fill="{color}" text-anchor="{anchor}"{style}>'
            f"{escape(words, quote=False)}</text>"
        )

    def lines(
        self, x: float, y: float, rows: Sequence[str], size: float, step: float, color: str = INK, bold: bool = False
    ) -> None:
        """Lines below each other, from the baseline y on."""
        for i, row in enumerate(rows):
            self.text(x, y + i * step, row, size, color, bold=bold)

    def arrow(self, points: Sequence[Point], color: str = GREY, width: float = 1.3, dash: str = "") -> None:
        """A line through the points with a head at the last."""
        self._path("M" + " L".join(f"{_short(x)} {_short(y)}" for x, y in points), color, width, dash)

    def curve(self, points: Sequence[Point], color: str = GREY, width: float = 1.3) -> None:
        """As `arrow`; upright at every point: bends lie between them."""
        self._path(_bends(points), color, width)

    def line(self, points: Sequence[Point], color: str = GREY, width: float = 1.3) -> None:
        """As `curve`, without a head."""
        self._path(_bends(points), color, width, head=False)

    def _path(self, path: str, color: str, width: float, dash: str = "", head: bool = True) -> None:
        if color not in self._colors:
            self._colors.append(color)
        style = f' stroke-dasharray="{dash}"' if dash else ""
        end = f' marker-end="url(#head{self._colors.index(color)})"' if head else ""
        self._elements.append(f'<path d="{path}" stroke="{color}" stroke-width="{width:g}"{style}{end}/>')

    def __str__(self) -> str:
        heads = "".join(
            f'<marker id="head{i}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto" '
            f'markerUnits="userSpaceOnUse"><path d="M0 0.5 L8 4 L0 7.5 z" fill="{color}"/></marker>'
            for i, color in enumerate(self._colors)
        )
        size = f'width="{self.width:g}" height="{self.height:g}" viewBox="0 0 {self.width:g} {self.height:g}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{FONT}" fill="none">'
        body = [f"<title>{escape(self.title)}</title>", f"<defs>{heads}</defs>"]
        body.append('<rect width="100%" height="100%" fill="white"/>')
        return "\n".join([head, *body, *self._elements, "</svg>"]) + "\n"


def _short(length: float) -> str:
    return f"{length:.1f}".removesuffix(".0")


def _bends(points: Sequence[Point]) -> str:
    path = f"M{_short(points[0][0])} {_short(points[0][1])}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        path += f" C{_short(x0)} {_short(middle)} {_short(x1)} {_short(middle)} {_short(x1)} {_short(y1)}"
    return path
