"""The figures of docs/architecture.md, drawn by text alone. FIGURES lists them.

    python -m docs.figures

What they show of the code is read from the code, so that a figure which is older than it is noticed (test_figures.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from docs.figures.data_flow import data_flow
from docs.figures.floors import Edge, floors_figure

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"


def floors(package: str) -> str:
    """SVG of a package's floors: FLOORS of test/floors.py, and the imports of the sources."""
    sys.path.insert(0, str(ROOT / "test"))
    from floors import FLOORS, floor_of, imports_between, unit_of, units_named

    known = floor_of()
    edges: set[Edge] = set()
    for here, there in imports_between(ROOT):
        edge = (str(unit_of(here, known)), str(unit_of(there, known)))
        if edge[0].startswith(package) and edge[0] != edge[1] and min(known[edge[0]], known[edge[1]]) >= 0:
            edges.add(edge)
    inside = {edge for edge in edges if edge[1].startswith(package)}
    others = sorted({there.split(".")[1] for _, there in edges - inside})
    ground = "stands on bev_perception: " + ", ".join(others) if others else ""
    return floors_figure(package, [units_named(of, names) for of, names in FLOORS if of == package], inside, ground)


# File in images/ -> function that draws it.
FIGURES: dict[str, Callable[[], str]] = {
    "data_flow.svg": data_flow,
    "floors_bev_perception.svg": partial(floors, "bev_perception"),
    "floors_training.svg": partial(floors, "training"),
}
