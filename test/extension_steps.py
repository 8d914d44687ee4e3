"""The steps of docs/extending.md, read from the page and carried out in a copy of the repository."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "extending.md"
COPIED = ("bev_perception", "bev_perception_msgs", "training", "test", "docs", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.ckpt", "*.jpg")

IMPORTS = (ast.Import, ast.ImportFrom)
STEP = re.compile(
    r"^(?:Write|In `(?P<table>\w+)` of) `(?P<path>[\w/.]+)`[^\n]*:\n\n```python\n(?P<code>.*?)```$", re.M | re.S
)


@dataclass(frozen=True)
class Step:
    """thing: heading of the page's section. table: where `code` adds a row in the file; "" for a file that is new."""

    thing: str
    path: str
    table: str
    code: str


def steps_of(page: Path = PAGE) -> list[Step]:
    """In the order of the page. Raises ValueError for a block of Python that is no step."""
    found = []
    for section in re.split(r"^## ", page.read_text(), flags=re.M)[1:]:
        thing = section.partition("\n")[0]
        steps = [Step(thing, m["path"], m["table"] or "", m["code"]) for m in STEP.finditer(section)]
        if len(steps) != section.count("```python"):
            raise ValueError(
                f"{page}, {thing!r}: a block of Python without `Write FILE:` or `In TABLE of FILE:` before"
            )
        found += steps
    return found


def copy_tree(to: Path) -> Path:
    """What can be run of the repository, without checkpoints."""
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=LEFT_OUT)
        else:
            shutil.copy2(ROOT / name, to / name)
    return to


def carry_out(steps: Iterable[Step], root: Path) -> None:
    """Raises ValueError where a file is there already, or a table is not."""
    for step in steps:
        path = root / step.path
        if not step.table:
            if path.exists():
                raise ValueError(f"{step.path} is to be written, but it is there")
            path.write_text(step.code)
        else:
            path.write_text(with_row(path.read_text(), step))


def with_row(source: str, step: Step) -> str:
    """The file with the block's last paragraph as a row at the end of the table: imports come after the others, what
    else stands before the row comes before the table."""
    table = _table(ast.parse(source), step)
    before, _, row = step.code.strip().rpartition("\n\n")
    lines = source.splitlines(keepends=True)
    last, column = table.value.end_lineno - 1, table.value.end_col_offset - 1
    inside = "".join(lines[table.lineno - 1 : last]) + lines[last][:column]
    comma = "" if inside.rstrip().endswith((",", "{", "(")) else ","
    lines[last] = lines[last][:column].rstrip("\n ") + f"{comma}\n    {row.rstrip(',')},\n" + lines[last][column:]
    if lines[last].startswith("\n"):  # the bracket had a line of its own: the comma belongs to the line above
        lines[last] = lines[last][1:]
    parts = [(node, ast.get_source_segment(before, node)) for node in ast.parse(before).body]
    lines.insert(table.lineno - 1, "".join(f"{text}\n\n\n" for node, text in parts if not isinstance(node, IMPORTS)))
    after = max(n.end_lineno for n in ast.parse(source).body if isinstance(n, IMPORTS))
    lines.insert(after, "".join(f"{text}\n" for node, text in parts if isinstance(node, IMPORTS)))
    return "".join(lines)


def _table(tree: ast.Module, step: Step) -> ast.Assign | ast.AnnAssign:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(getattr(node, "value", None), ast.Dict | ast.Tuple) and any(
            isinstance(target, ast.Name) and target.id == step.table for target in targets
        ):
            return node
    raise ValueError(f"{step.path} has no table {step.table}")
