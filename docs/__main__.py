"""`make docs`: draw the plots of the pages and write their tables, from what docs/data holds.

    python -m docs

A plot carries the hash of its inputs and of the code that drew it, so that one that is older than either is noticed
(test_plots.py). Tables are written between the marks of their names and nothing else of the pages is touched.
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from bev_perception.evaluation.pages import replace_sections
from bev_perception.files import write_atomic
from docs.measured import DATA, read
from docs.plots import PLOTS
from docs.tables import TABLES

DOCS = Path(__file__).resolve().parent
IMAGES = DOCS / "images"
CODE = ("__main__.py", "measured.py", "plots.py")
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "bev_perception",
    "svg.fonttype": "none",  # text stays text: small files and readable differences
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "Helvetica"],  # the first comes with matplotlib and is wide
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}


def fingerprint(inputs: tuple[str, ...], folder: Path = DATA) -> str:
    """Of what a plot is drawn from: its inputs and the code, sha256."""
    parts = [(folder / name).read_bytes() for name in inputs] + [(DOCS / name).read_bytes() for name in CODE]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def draw(name: str, folder: Path = DATA) -> bytes:
    """The SVG, the same bytes every time for one version of matplotlib."""
    plot = PLOTS[name]
    values = [read(file, folder) for file in plot.inputs]
    with matplotlib.rc_context(STYLE):
        return svg(
            plot.function(*values),
            f"drawn by `python -m docs` from {', '.join(plot.inputs)}; "
            f"sha256 of inputs and code {fingerprint(plot.inputs, folder)}",
        )


def svg(figure: Figure, description: str) -> bytes:
    """Without a date, so that nothing changes but what is drawn."""
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Description": description})
    return buffer.getvalue()


def main() -> None:
    for name in PLOTS:
        write_atomic(IMAGES / name, draw(name))
        print(f"docs/images/{name}")
    for (page, mark), (function, inputs) in TABLES.items():
        replace_sections(DOCS / page, {mark: function(*(read(file) for file in inputs))})
        print(f"docs/{page}, {mark}")


if __name__ == "__main__":
    main()
