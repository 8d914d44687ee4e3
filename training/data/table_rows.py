"""The rows of a table of a nuScenes-format set, some thousands at a time: the largest tables have gigabytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from training.data.table_checks import TableChecks

BLOCK_BYTES = 1 << 23
BETWEEN_ROWS = re.compile(rb"\}\s*,\s*\{")
TRIES = 8  # ends of rows that are tried in a block: text can look like one
Row = dict[str, Any]
Found = TypeVar("Found")


def row_blocks(path: Path) -> Iterator[list[Row]]:
    """The rows of a table in its order, a block at a time. Raises ValueError naming a table that is not JSON, or no
    list of objects, and a row that is not what it must be (table_checks)."""
    checks = TableChecks(path)
    with open(path, "rb") as file:
        text = file.read(BLOCK_BYTES).lstrip()
        if not text.startswith(b"["):
            raise ValueError(f"{path}: not JSON rows (it begins with {text[:20]!r}); copy or unpack the table again")
        text = text[1:]
        while more := file.read(BLOCK_BYTES):
            rows, text = _split(text, path)
            yield checks.rows(rows)
            text += more
        yield checks.rows(_parse(b"[" + text, path))
    checks.end()


def table_rows(path: Path) -> Iterator[Row]:
    """The same, row by row."""
    for rows in row_blocks(path):
        yield from rows


def _split(text: bytes, path: Path) -> tuple[list[Row], bytes]:
    """Whole rows at the start of the text, and what is left of it."""
    ends = [match.start() + 1 for match in BETWEEN_ROWS.finditer(text, max(0, len(text) - (1 << 16)))]
    error: ValueError | None = None
    for end in reversed(ends[-TRIES:]):
        try:  # what can be read up to here ends here: JSON has no other reading
            return _parse(b"[" + text[:end] + b"]", path), text[end:].lstrip()[1:]
        except ValueError as wrong:
            error = wrong
    if error is not None:
        raise error
    return [], text


def _parse(text: bytes, path: Path) -> list[Row]:
    try:
        rows = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); copy or unpack the table again") from error
    if set(map(type, rows)) - {dict}:
        wrong = next(row for row in rows if not isinstance(row, dict))
        raise ValueError(f"{path}: a row is {wrong!r}, expected an object; copy or unpack the table again")
    return rows  # type: ignore[no-any-return]


def find(rows: Mapping[str, Found], token: str, table: str, asked_by: str) -> Found:
    """What `rows` of a table, by token, has. Raises ValueError naming the row that refers to one that is not there."""
    if token not in rows:
        raise ValueError(f"{table}.json has no row {token!r}, which {asked_by!r} refers to; unpack the metadata again")
    return rows[token]


def look_up(rows: Mapping[str, Found], asking: Sequence[Row], key: str, table: str) -> list[Found]:
    """What `find` gives for the `key` of each row that asks."""
    try:
        return [rows[row[key]] for row in asking]
    except KeyError:
        return [find(rows, row[key], table, row["token"]) for row in asking]


def in_no_scene(row: Row) -> ValueError:
    """Of a row whose sample `sample` has and no scene leads to."""
    return ValueError(
        f"sample.json: no scene's chain of `next` leads to {row['sample_token']!r}, which {row['token']!r} refers "
        "to; unpack the metadata again"
    )
