"""The figures of docs/architecture.md: `python -m docs.figures` draws them anew.

What they show of the code is read from the code, so that a figure which is older than it is noticed (test_figures.py).
"""

from __future__ import annotations

import sys
from pathlib import Path

from docs.data_flow import data_flow
from docs.floors import Edge, floors_figure

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"


def floors() -> dict[str, str]:
    """File name -> SVG of each package's floors."""
    sys.path.insert(0, str(ROOT / "test"))
    from test_import_boundaries import FLOORS, ROOTS, floor_of, imports_between, unit_of, units_named

    known = floor_of()
    edges: set[Edge] = set()
    for here, there in imports_between(ROOT):
        edge = (str(unit_of(here, known)), str(unit_of(there, known)))
        if edge[0] != edge[1] and min(known[edge[0]], known[edge[1]]) >= 0:
            edges.add(edge)
    drawn = {}
    for package in ROOTS:
        rows = [units_named(of, names) for of, names in FLOORS if of == package]
        inside = [e for e in edges if e[0].startswith(package) and e[1].startswith(package)]
        outside = {b.split(".")[1] for a, b in edges if a.startswith(package) and not b.startswith(package)}
        ground = "stands on bev_perception: " + ", ".join(sorted(outside)) if outside else ""
        drawn[f"floors_{package}.svg"] = floors_figure(package, rows, inside, ground)
    return drawn


def figures() -> dict[str, str]:
    """File name -> SVG of every figure."""
    return {"data_flow.svg": data_flow(), **floors()}


def main() -> None:
    for name, text in figures().items():
        (IMAGES / name).write_text(text)
        print(f"docs/images/{name}")


if __name__ == "__main__":
    main()
