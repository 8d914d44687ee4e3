"""Small mistakes for `make mutants`: every place of a Python source where one could slip in, as an edit of its text.

Left alone: annotations, decorators, assertions (they are for readers and mypy), docstrings and the text of messages.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[str, tuple[str, ...]]] = {
    ast.Lt: ("<", ("<=", ">=")), ast.LtE: ("<=", ("<", ">")), ast.Gt: (">", (">=", "<=")), ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)), ast.NotEq: ("!=", ("==",)),
    ast.In: ("in", ("not in",)), ast.NotIn: ("not in", ("in",)),
    ast.Is: ("is", ("is not",)), ast.IsNot: ("is not", ("is",)),
}  # fmt: skip
OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"), ast.BitOr: ("|", "&"),
}  # fmt: skip
# Functions that are taken for each other, in both directions; without abs() a number keeps its sign.
SIBLINGS = (
    ("min", "max"), ("minimum", "maximum"), ("argmin", "argmax"), ("amin", "amax"), ("any", "all"), ("sum", "mean"),
    ("sin", "cos"), ("floor", "ceil"), ("zeros", "ones"), ("bisect_left", "bisect_right"),
)  # fmt: skip
SIBLING = {"abs": "float", **dict(SIBLINGS), **{b: a for a, b in SIBLINGS}}
# Their arguments may come in any order.
SYMMETRIC = {"min", "max", "minimum", "maximum", "gcd", "hypot", "transpose", "allclose", "array_equal", "zip"}


@dataclass(frozen=True)
class Mutant:
    """One edit: the text from `start` to `end` (characters of the source) becomes `text`.

    line: its number, from 1. old, new: that line before and after, without the indentation; what several lines held is
    cut to the first of them.
    """

    line: int
    old: str
    new: str
    start: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        return source[: self.start] + self.text + source[self.end :]


def find_mutants(source: str) -> list[Mutant]:
    """Every mutant of the source, by place; each differs from all others."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found: dict[str, Mutant] = {}
    for start, end, text in _Finder(source, starts).edits(ast.parse(source)):
        line = next(i for i, at in enumerate(starts) if at > start)
        row_start, row_end = starts[line - 1], starts[line] - 1
        old = source[row_start:row_end]
        new = source[row_start:start] + text + source[end:row_end]
        mutant = Mutant(line, old.strip(), new.strip(), start, end, text)
        found.setdefault(mutant.apply(source), mutant)
    return sorted(found.values(), key=lambda m: (m.start, m.text))


Edit = tuple[int, int, str]


class _Finder:
    """Walks the tree and yields edits as (start, end, text)."""

    def __init__(self, source: str, starts: list[int]) -> None:
        self.source = source
        self.starts = starts
        self.lines = source.splitlines()

    def edits(self, node: ast.AST) -> Iterator[Edit]:
        if isinstance(node, ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
            return
        of_kind = getattr(self, f"of_{type(node).__name__}", None)
        if of_kind is not None:
            yield from of_kind(node)
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            yield from self._condition(node.test)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from self.edits(child)

    # ---- places in the text

    def start(self, node: ast.expr | ast.stmt) -> int:
        return self._offset(node.lineno, node.col_offset)

    def end(self, node: ast.expr | ast.stmt) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, byte_column: int) -> int:
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:byte_column].decode())

    def text(self, node: ast.expr | ast.stmt) -> str:
        return self.source[self.start(node) : self.end(node)]

    def between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[Edit]:
        """The operator `old` between two operands becomes `new`."""
        start = self.end(left)
        pattern = r"\b" + old.replace(" ", r"\s+") + r"\b" if old[0].isalpha() else re.escape(old)
        match = re.search(pattern, self.source[start : self.start(right)])
        if match:
            yield start + match.start(), start + match.end(), new

    def swap(self, a: ast.expr, b: ast.expr) -> Iterator[Edit]:
        if self.text(a) != self.text(b) and a.lineno == b.end_lineno:
            between = self.source[self.end(a) : self.start(b)]
            yield self.start(a), self.end(b), self.text(b) + between + self.text(a)

    # ---- expressions

    def of_Compare(self, node: ast.Compare) -> Iterator[Edit]:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:]):
            old, others = COMPARISONS[type(operator)]
            for new in others:
                yield from self.between(left, right, old, new)

    def of_BinOp(self, node: ast.BinOp) -> Iterator[Edit]:
        if isinstance(node.op, ast.MatMult):
            yield from self.swap(node.left, node.right)
        elif type(node.op) in OPERATORS:
            yield from self.between(node.left, node.right, *OPERATORS[type(node.op)])

    def of_BoolOp(self, node: ast.BoolOp) -> Iterator[Edit]:
        old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:]):
            yield from self.between(left, right, old, new)

    def of_UnaryOp(self, node: ast.UnaryOp) -> Iterator[Edit]:
        if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            start = self.start(node)
            yield start, start + (len("not ") if isinstance(node.op, ast.Not) else 1), ""

    def of_Constant(self, node: ast.Constant) -> Iterator[Edit]:
        value = node.value
        if isinstance(value, bool):
            yield self.start(node), self.end(node), str(not value)
        elif isinstance(value, int | float):
            yield self.start(node), self.end(node), repr(value + 1 if value < 100 else 2 * value)

    def of_Call(self, node: ast.Call) -> Iterator[Edit]:
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name in SIBLING:
            yield self.end(function) - len(name), self.end(function), SIBLING[name]
        if name not in SYMMETRIC:
            for a, b in zip(node.args, node.args[1:]):
                yield from self.swap(a, b)

    def of_Subscript(self, node: ast.Subscript) -> Iterator[Edit]:
        if isinstance(node.slice, ast.Tuple):
            for a, b in zip(node.slice.elts, node.slice.elts[1:]):
                yield from self.swap(a, b)

    def of_comprehension(self, node: ast.comprehension) -> Iterator[Edit]:
        for test in node.ifs:
            yield from self._condition(test)

    def _condition(self, test: ast.expr) -> Iterator[Edit]:
        """`if x` becomes `if not x`; other operators have their own mistakes."""
        if isinstance(test, ast.NamedExpr):
            yield self.start(test), self.end(test), f"not ({self.text(test)})"
        elif not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
            yield self.start(test), self.start(test), "not "

    # ---- statements

    def of_Assign(self, node: ast.Assign) -> Iterator[Edit]:
        (target, *_) = node.targets
        if isinstance(target, ast.Tuple):
            values = node.value.elts if isinstance(node.value, ast.Tuple) else []
            if values and len({ast.dump(value) for value in values}) == 1:
                return
            for a, b in zip(target.elts, target.elts[1:]):
                yield from self.swap(a, b)
        elif isinstance(target, ast.Attribute | ast.Subscript):
            yield from self._without(node)

    def of_AugAssign(self, node: ast.AugAssign) -> Iterator[Edit]:
        yield from self._without(node)
        if type(node.op) in OPERATORS:
            old, new = OPERATORS[type(node.op)]
            yield from self.between(node.target, node.value, f"{old}=", f"{new}=")

    def of_Expr(self, node: ast.Expr) -> Iterator[Edit]:
        if isinstance(node.value, ast.Call):
            yield from self._without(node)

    def of_Delete(self, node: ast.Delete) -> Iterator[Edit]:
        yield from self._without(node)

    def of_Raise(self, node: ast.Raise) -> Iterator[Edit]:
        yield from self._without(node)

    def of_Continue(self, node: ast.Continue) -> Iterator[Edit]:
        yield from self._without(node)

    def of_If(self, node: ast.If) -> Iterator[Edit]:
        """A branch that only returns is never taken."""
        (first, *rest) = node.body
        if isinstance(first, ast.Return) and not rest:
            yield self.start(node.test), self.end(node.test), "False"

    def _without(self, node: ast.stmt) -> Iterator[Edit]:
        yield self.start(node), self.end(node), "pass"
