"""The figures of docs/architecture.md say what the code says today."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="the figure of the data flow names the node's own numbers")

from floors import ROOTS, floor_of

from docs.figures import FIGURES, IMAGES
from docs.figures.data_flow import LOST
from docs.figures.floors import floors_figure, reduced

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_as_the_code_is_today(name: str) -> None:
    """It changes with FLOORS, with imports and with the parameters' defaults."""
    path, drawn = IMAGES / name, FIGURES[name]()
    assert path.is_file() and path.read_text() == drawn, f"{path} is old: python -m docs.figures"
    assert len(drawn) < 100_000


def test_the_page_says_why_each_unit_stands_where_it_does() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))))
    units = {unit.split(".")[-1] for unit in floor_of() if "_backend" not in unit} - {*ROOTS, "inference"}
    assert not units - named


def test_reasons_in_the_figure_are_those_that_the_code_counts() -> None:
    red = re.findall(rf'fill="{LOST}"[^>]*>([^<]*)</text>', FIGURES["data_flow.svg"]())
    reasons = {word for text in red for word in re.findall(r"[a-z]+(?:_[a-z]+)+", text)}
    sources = "".join(path.read_text() for path in (ROOT / "bev_perception").rglob("*.py"))
    assert len(reasons) > 8 and not [word for word in reasons if f'{word}"' not in sources]


def test_what_other_imports_say_already_is_not_drawn() -> None:
    assert reduced([("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("a", "d")]) == {("a", "b"), ("b", "c"), ("c", "d")}


def test_a_new_import_and_a_unit_that_moves_change_the_figure() -> None:
    plain, models, data, run = (f"training.{name}" for name in ("plain", "models", "data", "run"))
    floors, edges = [[plain], [models, data], [run]], [(run, models), (models, plain)]
    before = floors_figure("training", floors, edges)
    assert floors_figure("training", floors, [*edges, (run, data)]) != before
    assert floors_figure("training", [[plain, data], [models], [run]], edges) != before
    following = [*reversed(edges), (run, plain)]
    assert floors_figure("training", floors, following) == before
    for unit in ("plain", "models", "data", "run"):
        assert before.count(f">{unit}</text>") == 1
