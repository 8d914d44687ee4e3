"""Pages that people write and commands fill: what lies between `<!-- NAME -->` and `<!-- end -->` is a command's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from bev_perception.files import write_atomic


def replace_sections(path: Path, bodies: Mapping[str, str]) -> None:
    """Put each body between the marks of its name; everything else of the page stays as it is.

    Raises ValueError for a mark that the page lacks or has twice, OSError where it cannot be read or written.
    """
    check_sections(path, bodies)
    text = path.read_text()
    for name, body in bodies.items():
        start, end = next(_section(name).finditer(text)).span(1)
        text = f"{text[:start]}\n{body.strip()}\n\n{text[end:]}"
    write_atomic(path, text)


def check_sections(path: Path, names: Iterable[str]) -> None:
    """Raises ValueError unless the page has exactly one section of each name: ask before measuring for an hour."""
    text = path.read_text()
    for name in names:
        count = len(_section(name).findall(text))
        if count != 1:
            raise ValueError(f"{path} has {count} sections <!-- {name} --> ... <!-- end -->, expected one")


def _section(name: str) -> re.Pattern[str]:
    return re.compile(rf"<!-- {re.escape(name)} -->\n(.*?)(?=<!-- end -->)", re.DOTALL)
