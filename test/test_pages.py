"""What commands write into pages: between their marks and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_sections import section

from bev_perception.evaluation.pages import check_sections, replace_sections

PAGE = """# Head

By hand.

<!-- a -->
old a
<!-- end -->

Between, <!-- b --> is named.

<!-- b -->
<!-- end -->
Tail.
"""


def test_only_what_lies_between_the_marks_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    replace_sections(path, {"a": "| 1 |\n| \\1 |\n", "b": "new b"})
    wanted = PAGE.replace("old a", "\n| 1 |\n| \\1 |\n").replace("<!-- b -->\n", "<!-- b -->\n\nnew b\n\n")
    assert path.read_text() == wanted, "blank lines around, so that every renderer sees Markdown there"
    assert section(path, "a") == "| 1 |\n| \\1 |" and section(path, "b") == "new b"
    replace_sections(path, {"a": "| 1 |\n| \\1 |\n", "b": "new b"})
    assert path.read_text() == wanted
    assert [p.name for p in tmp_path.iterdir()] == ["page.md"]


def test_a_mark_that_is_missing_or_twice_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text(PAGE + "<!-- a -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match=r"page\.md has 2 sections <!-- a -->"):
        replace_sections(path, {"b": "new", "a": "new"})
    with pytest.raises(ValueError, match=r"page\.md has 0 sections <!-- c -->"):
        check_sections(path, ["c"])
    assert "new" not in path.read_text()
