"""The floors of a package as a figure, from FLOORS in test/floors.py and the imports of the sources.

A row is a floor, a box a unit, an arrow an import. Imports that follow from others (a unit imports what imports the
third) are left out: what is drawn is the transitive reduction, placed in layers as Sugiyama et al. (1981) do. Lines to
one unit share their way past the floors between.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from docs.figures.svg import FAINT, GREY, INK, Drawing

Edge = tuple[str, str]
WIDTH, MARGIN, GUTTER = 880.0, 12.0, 26.0  # WIDTH: at least; the widest floor may want more
BOX, STEP, GAP, LANE = 24.0, 58.0, 11.0, 6.0  # height of a box, between floors, between boxes, width of a line
LEGEND = 26.0  # height of the line that says what colours mean
LETTER = 6.6  # pixels of a letter, wide fonts included
LINE = "#8c959f"
BLUE, GREEN, ORANGE, VIOLET, PINK = (
    ("#e8f0fe", "#4285f4"), ("#e6f4ea", "#34a853"), ("#fef3e0", "#e8710a"), ("#f3e8fd", "#9334e6"),
    ("#fde7f3", "#d01884"),
)  # fmt: skip
# Package -> what its colours mean: fill and line, words, the units or folders; those of no row have the first colour.
ROLES: dict[str, tuple[tuple[tuple[str, str], str, str], ...]] = {
    "bev_perception": (
        (BLUE, "the algorithm and what it needs", ""),
        (PINK, "sensors/: what they say", "sensors"),
        (GREEN, "inference/", "inference"),
        (ORANGE, "ros/: the node", "ros"),
        (VIOLET, "evaluation/ and the replay", "evaluation replay"),
    ),
    "training": (
        (BLUE, "tools and commands", ""),
        (GREEN, "data and scores", "data world scoring sensor_masks"),
        (VIOLET, "networks and what they learn from", "models losses teachers distill"),
        (ORANGE, "what a run is", "run recipes experiments"),
    ),
}


@dataclass(frozen=True)
class Item:
    """A unit, or the lane in which lines pass a floor on their way to a unit (name: "unit floor")."""

    name: str
    width: float


def reduced(edges: Iterable[Edge]) -> set[Edge]:
    """The edges that no other path says already. `edges` has no circles."""
    below: dict[str, set[str]] = {}
    for here, there in edges:
        below.setdefault(here, set()).add(there)

    def reach(name: str) -> set[str]:
        found = set(below.get(name, ()))
        for there in below.get(name, ()):
            found |= reach(there)
        return found

    return {
        (here, there)
        for here, targets in below.items()
        for there in targets
        if not any(there in reach(other) for other in targets - {there})
    }


def floors_figure(package: str, floors: Sequence[Sequence[str]], edges: Iterable[Edge], ground: str = "") -> str:
    """floors: units from the ground up; edges: (importing unit, imported unit).

    ground: what a package stands on, a line of text below the lowest floor.
    """
    drawn = sorted(reduced(edges))
    floor = {unit: i for i, row in enumerate(floors) for unit in row}
    rows = [[Item(unit, len(_label(unit)) * LETTER + 12) for unit in row] for row in floors]
    links: list[list[Edge]] = [[] for _ in rows]  # between floor i and i - 1, by names of items
    for here, there in drawn:
        way = _way(here, there, floor)
        for i, link in zip(range(floor[here], floor[there], -1), itertools.pairwise(way)):
            if link not in links[i]:
                links[i].append(link)
            if " " in link[1] and Item(link[1], LANE) not in rows[i - 1]:
                rows[i - 1].append(Item(link[1], LANE))
    _order(rows, links)
    width = max(WIDTH, *map(_least_width, rows))
    centers = _places(rows, links, width)
    height = MARGIN + LEGEND + (len(rows) - 1) * STEP + BOX + MARGIN + (34 if ground else 0)
    drawing = Drawing(width, height, f"The floors of {package}: who imports whom")
    tops = [MARGIN + LEGEND + (len(rows) - 1 - i) * STEP for i in range(len(rows))]
    for i, top in enumerate(tops):
        drawing.box(0, top - 5, width, BOX + 10, "#f6f8fa", "none")
        drawing.text(6, top + BOX / 2 + 4, str(i + 1), 11, GREY)
    left = GUTTER
    for (fill, line), words, _ in ROLES[package]:
        drawing.box(left, MARGIN - 6, 14, 14, fill, line)
        drawing.text(left + 20, MARGIN + 5, words, 11, GREY)
        left += 20 + len(words) * LETTER + 24
    colors = {unit: color for color, _, units in ROLES[package] for unit in units.split()}
    ports = _ports(rows, links, centers)
    for i, link in ((i, link) for i, between in enumerate(links) for link in between):
        start, end = (ports[link, 0], tops[i] + BOX), (ports[link, 1], tops[i - 1])
        if " " in link[1]:
            drawing.line([start, end, (end[0], end[1] + BOX)], LINE, 1.1)
        else:
            drawing.curve([start, end], LINE, 1.1)
    for i, row in enumerate(rows):
        for item in row:
            if " " in item.name:
                continue
            left = centers[item.name] - item.width / 2
            drawing.box(left, tops[i], item.width, BOX, *colors.get(item.name.split(".")[1], ROLES[package][0][0]))
            drawing.text(centers[item.name], tops[i] + 16, _label(item.name), 11, INK, "middle")
    if ground:
        drawing.box(GUTTER, height - MARGIN - 22, width - GUTTER - MARGIN, 22, "#f6f8fa", FAINT)
        drawing.text((width + GUTTER - MARGIN) / 2, height - MARGIN - 7, ground, 11, GREY, "middle")
    return str(drawing)


# ---- layers: order, then places


def _order(rows: list[list[Item]], links: Sequence[Sequence[Edge]]) -> None:
    """Sort each row so that few lines cross: barycentres up and down, then neighbours that gain by changing places."""
    best, fewest = [list(row) for row in rows], _all_crossings(rows, links)
    for sweep in range(24):
        upwards = sweep % 2 == 0
        for i in range(1, len(rows)) if upwards else range(len(rows) - 2, -1, -1):
            near = _neighbours(links[i] if upwards else links[i + 1], own=0 if upwards else 1)
            at = {item.name: k for k, item in enumerate(rows[i - 1] if upwards else rows[i + 1])}
            own = {item.name: k for k, item in enumerate(rows[i])}
            wanted = {n: fmean(at[o] for o in near[n]) if n in near else own[n] for n in own}
            rows[i].sort(key=lambda item: (wanted[item.name], own[item.name]))
        while _swap_once(rows, links):
            pass
        count = _all_crossings(rows, links)
        if count < fewest:
            best, fewest = [list(row) for row in rows], count
    rows[:] = best


def _swap_once(rows: list[list[Item]], links: Sequence[Sequence[Edge]]) -> bool:
    """Changes the places of neighbours whose own lines cross less the other way round; whether there were any."""
    swapped = False
    for i, row in enumerate(rows):
        ends: dict[str, list[list[int]]] = {item.name: [] for item in row}  # per side, where its lines end
        for j, link, own in ((i - 1, links[i], 0), (i + 1, links[i + 1] if i + 1 < len(rows) else (), 1)):
            near = _neighbours(link, own)
            at = {item.name: k for k, item in enumerate(rows[j])} if near else {}
            for name, places in ends.items():
                places.append([at[other] for other in near.get(name, ())])
        for k in range(len(row) - 1):
            left, right = ends[row[k].name], ends[row[k + 1].name]
            if _inversions(right, left) < _inversions(left, right):
                row[k], row[k + 1] = row[k + 1], row[k]
                swapped = True
    return swapped


def _inversions(left: Sequence[Sequence[int]], right: Sequence[Sequence[int]]) -> int:
    return sum(a > b for mine, other in zip(left, right, strict=True) for a in mine for b in other)


def _crossings(rows: Sequence[Sequence[Item]], links: Sequence[Sequence[Edge]], i: int) -> int:
    """Of the lines between floor i and the one below."""
    upper, lower = ({item.name: k for k, item in enumerate(rows[j])} for j in (i, i - 1))
    ends = [(upper[a], lower[b]) for a, b in links[i]]
    return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in itertools.combinations(ends, 2))


def _all_crossings(rows: Sequence[Sequence[Item]], links: Sequence[Sequence[Edge]]) -> int:
    return sum(_crossings(rows, links, i) for i in range(1, len(rows)))


def _neighbours(links: Sequence[Edge], own: int) -> dict[str, list[str]]:
    near: dict[str, list[str]] = {}
    for link in links:
        near.setdefault(link[own], []).append(link[1 - own])
    return near


def _least_width(row: Sequence[Item]) -> float:
    return GUTTER + sum(item.width for item in row) + GAP * (len(row) - 1) + MARGIN


def _places(rows: Sequence[Sequence[Item]], links: Sequence[Sequence[Edge]], width: float) -> dict[str, float]:
    """Centre of each item: as near to its neighbours above and below as the widths allow."""
    centers: dict[str, float] = {}
    for row in rows:
        centers |= _packed(row, dict.fromkeys((item.name for item in row), (width + GUTTER) / 2), width)
    for sweep in range(60):
        for i in range(len(rows)) if sweep % 2 else reversed(range(len(rows))):
            down = _neighbours(links[i], own=0)
            up = _neighbours(links[i + 1], own=1) if i + 1 < len(rows) else {}
            wanted = {}
            for item in rows[i]:
                near = [centers[o] for o in (*down.get(item.name, ()), *up.get(item.name, ()))]
                wanted[item.name] = fmean(near) if near else centers[item.name]
            centers |= _packed(rows[i], wanted, width)
    return centers


def _packed(row: Sequence[Item], wanted: Mapping[str, float], width: float) -> dict[str, float]:
    """The places nearest to the wanted ones (least squares) that keep order, gaps and margins: pooled neighbours."""
    if not row:
        return {}
    gaps = [(a.width + b.width) / 2 + GAP for a, b in itertools.pairwise(row)]
    offsets = [0.0, *itertools.accumulate(gaps)]
    pools: list[list[float]] = []
    for item, offset in zip(row, offsets):
        pools.append([wanted[item.name] - offset])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    starts = [fmean(pool) for pool in pools for _ in pool]
    low = GUTTER + row[0].width / 2
    high = max(low, width - MARGIN - row[-1].width / 2 - offsets[-1])
    return {item.name: min(max(s, low), high) + o for item, s, o in zip(row, starts, offsets)}


def _ports(
    rows: Sequence[Sequence[Item]], links: Sequence[Sequence[Edge]], centers: Mapping[str, float]
) -> dict[tuple[Edge, int], float]:
    """(link, its upper or lower end) -> x; ends at one edge of a box stand beside each other."""
    widths = {item.name: item.width for row in rows for item in row}
    ports: dict[tuple[Edge, int], float] = {}
    for between in links:
        for end in (0, 1):
            for name, others in _neighbours(between, end).items():
                for rank, other in enumerate(sorted(others, key=lambda o: (centers[o], o))):
                    share = (rank + 1) / (len(others) + 1) - 0.5 if " " not in name else 0.0
                    link = (name, other) if end == 0 else (other, name)
                    ports[link, end] = centers[name] + widths[name] * 0.8 * share
    return ports


def _way(here: str, there: str, floor: Mapping[str, int]) -> list[str]:
    """Names of the items that an arrow passes, both ends included."""
    return [here, *(f"{there} {i}" for i in range(floor[here] - 1, floor[there], -1)), there]


def _label(unit: str) -> str:
    return unit.split(".")[-1]
