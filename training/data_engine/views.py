"""A data set of which some frames are labelled: links into the pool, a list of frames, and labels where they differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from bev_perception.files import write_atomic
from training.data.frames import FRAMES, frames_json
from training.data.source import Source
from training.data.table_rows import table_rows
from training.tables.files import write_rows
from training.tables.linked import linked_set
from training.tables.rows import Row


def write_view(
    out: Path, pool: Source, tokens: Sequence[str], tables: Mapping[str, Iterable[Row]] | None = None
) -> Source:
    """The data set `out`: that of `pool`, of whose training split these samples are learnt from; one that was written
    here before is replaced. tables: those in whose place others are written, row by row.

    Raises ValueError where `out` is there and is none of these, and for no tokens; OSError.
    """
    if not tokens:
        raise ValueError("no frame is chosen, and there would be nothing to learn from")
    new = tables or {}
    with linked_set(out, pool.root, pool.version, new, FRAMES) as work:
        for name, rows in new.items():
            write_rows(work / pool.version / f"{name}.json", rows)
        write_atomic(work / FRAMES, frames_json({"train": tokens}))
    return Source(out, pool.version, pool.classes)


def rows_of(source: Source, name: str) -> Iterator[Row]:
    """The rows of a table, one at a time. Raises OSError, and ValueError for what is no table."""
    return table_rows(source.root / source.version / f"{name}.json")


def stamps_of(source: Source) -> dict[str, int]:
    """Token of each sample -> its time (us)."""
    return {row["token"]: row["timestamp"] for row in rows_of(source, "sample")}
