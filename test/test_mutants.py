"""The mistakes that `make mutants` makes, on a few lines; and its tables against the tree."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("tomllib", reason="the tables of `make mutants` are read by Python 3.11 and later")

from mutants import TESTS, choose, read_equivalents
from mutations import find_mutants

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("y = a < b", {"y = a <= b", "y = a >= b"}),
        ("y = a not in b", {"y = a in b"}),
        ("y = a is None", {"y = a is not None"}),
        ("y = (a + b) * c", {"y = (a - b) * c", "y = (a + b) / c"}),
        ("y = a @ b.T", {"y = b.T @ a"}),
        ("y = a and not b", {"y = a or not b", "y = a and b"}),
        ("y = -a // b", {"y = a // b", "y = -a * b"}),
        ("y = x[i, 1:]", {"y = x[1:, i]", "y = x[i, 2:]"}),
        ("y = 0.5 if a else True", {"y = 1.5 if a else True", "y = 0.5 if not a else True", "y = 0.5 if a else False"}),
        ("y = 0 if (x := a) else b", {"y = 1 if (x := a) else b", "y = 0 if (not (x := a)) else b"}),
        ("y = np.sin(a)", {"y = np.cos(a)"}),
        ("y = min(a, b)", {"y = max(a, b)"}),
        ("y = arctan2(a, b)", {"y = arctan2(b, a)"}),
        ("h, w = size", {"w, h = size"}),
        ("self.n += a", {"self.n -= a", "pass"}),
        ("self.x = a", {"pass"}),
        ("queue.clear()", {"pass"}),
        ("y = [v for v in a if v]", {"y = [v for v in a if not v]"}),
        ("y: dict[str, int] = f'{a + 1}'", set()),  # neither types nor the text of messages
        ("assert a > 1", set()),
        ("y = a", set()),
    ],
)
def test_mistakes_of_a_line(line: str, expected: set[str]) -> None:
    mutants = find_mutants(f"é = 'é'  # not ASCII\n{line}\n")
    assert {m.new for m in mutants} == expected
    assert {(m.line, m.old) for m in mutants} <= {(2, line)}
    assert all(m.apply(f"é = 'é'  # not ASCII\n{line}\n") == f"é = 'é'  # not ASCII\n{m.new}\n" for m in mutants)


def test_branches_that_only_return_and_errors_are_never_reached() -> None:
    source = "def f(a):\n    if a:\n        return 1\n    raise ValueError(\n        'long'\n    )\n"
    assert {(m.line, m.old, m.new) for m in find_mutants(source)} == {
        (2, "if a:", "if not a:"),
        (2, "if a:", "if False:"),
        (3, "return 1", "return 2"),
        (4, "raise ValueError(", "pass"),
    }


def test_the_choice_is_spread_over_lines_and_stays_when_other_lines_change() -> None:
    lines = [f"x{i} = a{i} + b{i} < c{i}" for i in range(30)]
    chosen = choose("file", find_mutants("\n".join(lines)), 10)
    assert len({m.line for m in chosen}) == 10
    lines[chosen[0].line - 1] = "nothing = a"
    again = choose("file", find_mutants("\n".join(["", "", *lines])), 10)
    assert len({m.new for m in chosen} & {m.new for m in again}) == 9


@pytest.mark.parametrize("path", TESTS)
def test_the_tables_are_of_this_tree(path: str) -> None:
    for name in TESTS[path]:
        assert (ROOT / "test" / name).is_file()
    mutants = {(path, m.old, m.new) for m in find_mutants((ROOT / path).read_text())}
    listed = {key for key in read_equivalents() if key[0] == path}
    assert listed <= mutants, "a line has changed: look at the mutant again"
    assert {key[0] for key in read_equivalents()} <= set(TESTS)
