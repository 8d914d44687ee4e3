"""The Markdown that the pages are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells may hold any text: a bar is escaped, a line break becomes a space. Raises ValueError for a ragged row."""
    lines = [head, ["---"] * len(head)]
    for row in rows:
        if len(row) != len(head):
            raise ValueError(f"a row of {len(row)} cells under a head of {len(head)}: {list(row)}")
        lines.append([" ".join(cell.replace("|", "\\|").split()) for cell in row])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def code(text: object) -> str:
    """Inline code, nothing for the empty text."""
    return f"`{text}`" if str(text) else ""


def join(*sections: str) -> str:
    """Paragraphs, lists and tables, a blank line between; ends with a newline."""
    return "\n\n".join(section.strip("\n") for section in sections if section) + "\n"


def written_by(source: str) -> str:
    """The mark that keeps people from editing a page by hand."""
    return f"<!-- Written by `python -m docs.pages` from {source}: edit those, not this. -->"
