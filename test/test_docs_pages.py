"""The reference pages in docs/ are what `python -m docs.pages` writes, and the writer refuses what nobody explained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("builtin_interfaces", reason="the table of outputs needs ROS 2's messages")

from bev_perception.model_spec import ImageSpec, TensorSpec
from bev_perception.parameter_table import CAMERA_PARAMETERS, PARAMETERS, REQUIRED, Parameter
from docs.pages import DOCS, PAGES, __main__, bundle, messages, parameters
from docs.pages.markdown import table


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_what_the_code_says(name: str) -> None:
    found = (DOCS / name).read_text() if (DOCS / name).is_file() else ""
    assert found == PAGES[name](), f"docs/{name} is stale; write it anew: python -m docs.pages"


def test_the_command_writes_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(__main__, "DOCS", tmp_path)
    __main__.main()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        name: page() for name, page in PAGES.items()
    }


def test_rows_of_parameters() -> None:
    page = parameters.page()
    assert [row.name for row in PARAMETERS if f"| `{row.name}` |" not in page] == []
    assert [row.name for row in CAMERA_PARAMETERS if f"| `cameras.<CAMERA>.{row.name}` |" not in page] == []
    row = Parameter("anchor", "double", 40.0, "of <CLASS>", (0.1, 5000.0))
    assert parameters.cells(row) == ("`anchor`", "double", "`40.0`", "0.1 to 5000", row.change, "of `<CLASS>`")
    assert parameters.value(1000 / 12) == "`83.333`" and parameters.value(False) == "`false`"
    assert parameters.value(("a", "b")) == "`[a, b]`" and parameters.value("") == "empty"
    assert parameters.cells(dataclasses.replace(row, default=REQUIRED))[2] == "must be given"
    with pytest.raises(ValueError, match=r"anchors\.first belongs to no group"):
        parameters.sections([dataclasses.replace(row, name="anchors.first")], parameters.GROUPS)


MSG = """# What it is.
#
# And more.

# Values of `level`.
uint8 OK=0    # fine
uint8 BAD=12  # not fine

# Above both.
string name
string[] names

float32 age  # [s]
"""


def test_a_message_is_read_with_its_comments() -> None:
    message = messages.parse_msg(MSG, "X.msg")
    assert message.text == "What it is.\n\nAnd more."
    (constants,) = message.constants
    assert constants.text == "Values of `level`."
    assert constants.rows == [("uint8", "OK", "0", "fine"), ("uint8", "BAD", "12", "not fine")]
    assert [messages.cells(block) for block in message.fields] == [
        ("`name`, `names`", "`string`, `string[]`", "Above both."),
        ("`age`", "`float32`", "[s]"),
    ]
    with pytest.raises(ValueError, match=r"X\.msg: silent has no comment"):
        messages.parse_msg(MSG + "\nuint8 silent\n", "X.msg")


def test_a_docstring_gives_its_first_sentence() -> None:
    assert messages.first_sentence("pkg/Kind: class,\n    score; see there.") == "pkg/Kind: class, score"
    assert messages.first_sentence("A box of 0.5 m. And more.") == "A box of 0.5 m"


def test_a_fact_that_nobody_explained_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {**bundle.FACTS[ImageSpec], "depth": "of what?"}
    del texts["width"]
    monkeypatch.setitem(bundle.FACTS, ImageSpec, texts)
    with pytest.raises(ValueError, match="ImageSpec: depth, width"):
        bundle.facts(ImageSpec())
    with pytest.raises(KeyError, match="new_tensor"):
        bundle.tensor_table((TensorSpec("new_tensor", (1,), "float32"),))


def test_cells_cannot_break_a_table() -> None:
    assert table(("a", "b"), [("x|y", "two\nlines")]).splitlines()[2] == "| x\\|y | two lines |"
    with pytest.raises(ValueError, match="a row of 1 cells under a head of 2"):
        table(("a", "b"), [("x",)])
