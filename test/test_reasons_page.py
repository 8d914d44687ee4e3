"""docs/reasons.md explains every reason that the status can name, and none that there is not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "bev_perception"
# Where a reason stands among the arguments of what refuses, masks, forgets or counts.
ARGUMENT = {
    "MessageError": 0, "ImageError": 0, "Problem": 0, "reset": 0, "count": 0, "_failed": 0, "_begin_epoch": 0,
    "Fault": 0, "_fail": 0, "_forget": 0, "follow": 0, "_text": 0, "refuse": 1, "notice": 1, "_notice": 1,
    "_absence": 3,
}  # fmt: skip
REASON_OF_SENSOR = {"missing", "problems"}  # name[sensor] = reason
REASON_TO_NUMBER = {"counters", "_counters", "lost"}  # name["where/reason"] += 1, or {reason: 1}
NOT_THE_NODE = ("car.py", "load.py", "measure.py", "try_faults.py")  # they play the car
ABSENT = "absent"  # what the parameters say is not there: no fault, and nothing to explain
# Functions of these that return a text return "" or a reason.
SAY_WHY = ("measurements.py", "stamp_guard.py", "sync.py", "stamped_buffer.py", "ego_motion.py", "temporal.py")


def texts(node: ast.AST | None) -> Iterator[str]:
    """What an expression can be, of constants; of `f"{sensor}/reason"` the end."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.IfExp(body=one, orelse=other):
            yield from (*texts(one), *texts(other))
        case ast.JoinedStr(values=[*_, last]):
            yield from texts(last)
        case ast.Dict(keys=keys):
            for key in keys:
                yield from texts(key)


def name_of(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def said(tree: ast.AST, says_why: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=function, args=arguments) if len(arguments) > ARGUMENT.get(name_of(function), 99):
                yield from texts(arguments[ARGUMENT[name_of(function)]])
            case ast.Assign(targets=[ast.Subscript(value=of)], value=value) if name_of(of) in REASON_OF_SENSOR:
                yield from texts(value)
            case ast.Assign(targets=[of], value=value) if name_of(of) in REASON_OF_SENSOR:
                yield from (text for v in getattr(value, "values", ()) for text in texts(v))
            case ast.AugAssign(target=ast.Subscript(value=of, slice=key)) if name_of(of) in REASON_TO_NUMBER:
                yield from texts(key)
            case ast.Assign(targets=[of], value=value) if name_of(of) in REASON_TO_NUMBER:
                yield from texts(value)
            case ast.Yield(value=ast.Tuple(elts=[first, *_])):
                yield from texts(first)
            case ast.FunctionDef(returns=ast.Name(id="str")) if says_why:
                for inner in ast.walk(node):
                    yield from texts(inner.value) if isinstance(inner, ast.Return) else ()


class Resolved(ast.NodeTransformer):
    """Names of constants become what they stand for."""

    def __init__(self, constants: dict[str, str]) -> None:
        self.constants = constants

    def visit_Name(self, node: ast.Name) -> ast.AST:
        value = self.constants.get(node.id) if isinstance(node.ctx, ast.Load) else None
        return node if value is None else ast.Constant(value)


def constants_of(package: Path) -> dict[str, str]:
    """NAME = "text" on the first level of any file, as others import them."""
    found = {}
    for path in package.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))) if name.isupper():
                    found[name] = text
    return found


def reasons(source: str, says_why: bool = True, constants: dict[str, str] | None = None) -> set[str]:
    """Every reason that a file can give."""
    tree = Resolved(constants or {}).visit(ast.parse(source))
    return {text.rpartition("/")[2] for text in said(tree, says_why)} - {""}


def explained(page: str) -> set[str]:
    """Reasons in the first column of the tables under `## ...`."""
    rows = re.findall(r"^\| (`[^|]*) \|", page[page.index("\n## ") :], re.MULTILINE)
    return {reason for row in rows for reason in re.findall(r"`(\w+)`", row)}


def test_the_page_explains_what_the_code_can_say() -> None:
    constants = constants_of(PACKAGE)
    found = {
        reason: path.relative_to(ROOT)
        for files in (
            "*.py",
            "preprocess/*.py",
            "sensors/*.py",
            "usual/*.py",
            "ros/*.py",
            "evaluation/frames.py",
            "deployment/procedure.py",
        )
        for path in sorted(PACKAGE.glob(files))
        if path.name not in NOT_THE_NODE
        for reason in reasons(path.read_text(), path.name in SAY_WHY, constants) - {ABSENT}
    }
    page = explained((ROOT / "docs" / "reasons.md").read_text())
    unexplained = [f"{reason} ({path})" for reason, path in sorted(found.items()) if reason not in page]
    assert not unexplained, f"not in a table of docs/reasons.md: {', '.join(unexplained)}"
    assert page <= set(found), f"in docs/reasons.md, but nothing says it: {sorted(page - set(found))}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise MessageError('image_size', 'no pixels')", {"image_size"}),
        ("self._sync.counters[f'{sensor}/late'] += 1", {"late"}),
        ("self.counters['frame/no_pose'] += 1", {"no_pose"}),
        ("missing[name] = 'gone' if a else self._absence(n, t, b, 'skipped')", {"gone", "skipped"}),
        ("self._missing = missing = {}\nself.refuse(sensor, 'too_old')", {"too_old"}),
        ("lost = {'over_limit': 3}", {"over_limit"}),
        ("def f():\n    yield 'too_far', far, 'beyond 300 m'", {"too_far"}),
        ("Fault('mount_roll', 'rolled by 90 degrees')", {"mount_roll"}),
        ("def f() -> str:\n    return 'stale' if old else ''", {"stale"}),
        ("def f() -> int:\n    return 'no reason'", set()),
        ("log.info('nothing')\nprint('a', 'b')", set()),
    ],
)
def test_reasons_are_found_however_they_are_said(source: str, expected: set[str]) -> None:
    assert reasons(source) == expected


def test_the_tables_are_read() -> None:
    page = "# A\n\n| `no` | x |\n\n## B\n\n| reason | why |\n| --- | --- |\n| `one`, `two` | of `three` |\n"
    assert explained(page) == {"one", "two"}
