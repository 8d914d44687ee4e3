"""A data set of which some frames are labelled: links into the pool, a list of frames, and labels where they differ."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from bev_perception.files import replace_folder, work_folder, write_atomic
from training.data.frames import FRAMES, frames_json
from training.data.source import Source
from training.tables.rows import Row

SPLITS = "splits.json"
LINKED = ("samples", "sweeps", "maps", "masks", SPLITS)  # of the pool, beside its tables
ANNOTATIONS, INSTANCES = "sample_annotation", "instance"


def write_view(
    out: Path, pool: Source, tokens: Sequence[str], tables: Mapping[str, Sequence[Row]] | None = None
) -> Source:
    """The data set `out`: that of `pool`, of whose training split these samples are learnt from; one that was written
    here before is replaced. tables: those in whose place others are written.

    Raises ValueError where `out` is there and is none of these, and for no tokens; OSError.
    """
    if out.is_dir() and any(out.iterdir()) and not (out / FRAMES).is_file():
        raise ValueError(f"{out} is there and was not written here (it holds no {FRAMES}); name another folder")
    if not tokens:
        raise ValueError("no frame is chosen, and there would be nothing to learn from")
    with work_folder(out) as work:
        for name in (*LINKED, *(() if tables else (pool.version,))):
            if (pool.root / name).exists():
                _link(work / name, pool.root / name, out / name)
        if tables:
            (work / pool.version).mkdir()
            for path in sorted((pool.root / pool.version).iterdir()):
                if path.stem not in tables:
                    _link(work / pool.version / path.name, path, out / pool.version / path.name)
            for name, rows in tables.items():
                write_atomic(work / pool.version / f"{name}.json", json.dumps(list(rows), separators=(",", ":")))
        write_atomic(work / FRAMES, frames_json({"train": tokens}))
        replace_folder(work, out)
    return Source(out, pool.version, pool.classes)


def _link(at: Path, to: Path, final: Path) -> None:
    """final: where `at` will stand."""
    at.symlink_to(os.path.relpath(to.resolve(), final.parent.resolve()))


def read_table(source: Source, name: str) -> list[Row]:
    """All rows. Raises OSError, and ValueError for what is no JSON."""
    path = source.root / source.version / f"{name}.json"
    try:
        return json.loads(path.read_bytes())  # type: ignore[no-any-return]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON ({error}); unpack the metadata again") from error


def chained(annotations: Iterable[Row], instances: Iterable[Row], stamps: Mapping[str, int]) -> dict[str, list[Row]]:
    """Both tables, with what hangs together in them made anew: rows of an instance follow each other by time, and an
    instance without any goes. stamps: sample token -> its time."""
    of_instance: dict[str, list[Row]] = {}
    for row in annotations:
        of_instance.setdefault(row["instance_token"], []).append({**row, "prev": "", "next": ""})
    kept = []
    for instance in instances:
        rows = sorted(of_instance.get(instance["token"], ()), key=lambda row: stamps[row["sample_token"]])
        for before, after in pairwise(rows):
            before["next"], after["prev"] = after["token"], before["token"]
        if rows:
            ends = {"first_annotation_token": rows[0]["token"], "last_annotation_token": rows[-1]["token"]}
            kept.append({**instance, **ends, "nbr_annotations": len(rows)})
    there = {instance["token"] for instance in kept}
    rows = [row for token, of in of_instance.items() if token in there for row in of]
    return {ANNOTATIONS: rows, INSTANCES: kept}
