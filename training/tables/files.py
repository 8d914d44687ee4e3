"""Files of a nuScenes-format data set: radar returns, and the tables over all scenes.

OUT/VERSION/*.json   the 13 tables, and splits.json for nuscenes-devkit
OUT/splits.json      split -> names of scenes, for training.data
OUT/maps             one small mask (the devkit demands one)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from bev_perception.files import open_atomic, write_atomic
from training.tables.rows import Row
from training.tables.vocabulary import TABLES, static_tables, token_of

RADAR_FIELDS = (
    "x y z dyn_prop id rcs vx vy vx_comp vy_comp is_quality_valid ambig_state x_rms y_rms "
    "invalid_state pdh0 vx_rms vy_rms"
)
RADAR_DTYPE = np.dtype(
    [
        (name, {"F4": "<f4", "I1": "i1", "I2": "<i2"}[code])
        for name, code in zip(RADAR_FIELDS.split(), "F4 F4 F4 I1 I2 F4 F4 F4 F4 F4 I1 I1 I1 I1 I1 I1 I1 I1".split())
    ]
)


def radar_pcd(returns: np.ndarray) -> bytes:
    """Structured radar returns (P,) with the 18 nuScenes fields -> bytes of a nuScenes binary .pcd (43-byte records).

    An empty scan becomes one record of NaN, which is how nuScenes marks it and nuscenes-devkit reads it (as (18, 0)).
    Raises ValueError when a field is missing.
    """
    missing = [name for name in RADAR_DTYPE.names or () if name not in (returns.dtype.names or ())]
    if missing:
        raise ValueError(f"radar returns lack the fields {missing}; they have {returns.dtype.names}")
    records = np.zeros(max(len(returns), 1), dtype=RADAR_DTYPE)
    for name in RADAR_DTYPE.names or ():
        if len(returns):
            records[name] = returns[name]
        elif RADAR_DTYPE[name].kind == "f":
            records[name] = np.nan
    sizes = [RADAR_DTYPE[name].itemsize for name in RADAR_DTYPE.names or ()]
    types = [RADAR_DTYPE[name].kind.upper() for name in RADAR_DTYPE.names or ()]
    header = (
        "# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\n"
        f"FIELDS {RADAR_FIELDS}\n"
        f"SIZE {' '.join(map(str, sizes))}\nTYPE {' '.join(types)}\nCOUNT {' '.join('1' for _ in sizes)}\n"
        f"WIDTH {len(records)}\nHEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {len(records)}\nDATA binary\n"
    )
    # nuScenes' own files go on after the last record, and nuscenes-devkit asserts that they do.
    return header.encode() + records.tobytes() + b"\0"


class TableWriter:
    """A table, written row by row."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._before = file, b"["

    def add(self, row: Row) -> None:
        self._file.write(self._before + _dumps(row).encode())
        self._before = b","

    def end(self) -> None:
        self._file.write(b"[]" if self._before == b"[" else b"]")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """A whole table, of which one row is in memory at a time."""
    with open_atomic(path) as file:
        table = TableWriter(file)
        for row in rows:
            table.add(row)
        table.end()


def write_tables(
    out: Path,
    version: str,
    scenes: Iterable[Mapping[str, list[Row]]],
    sensors: Mapping[str, str],
    splits: Mapping[str, Sequence[str]],
    world: str,
) -> None:
    """The tables over `scenes` (of `scene_tables`), in the place of those that are there; memory is that of one scene.

    sensors: channel -> modality. world: names the mask and, since 'train' and 'val' mean nuScenes' own scenes to it,
    the splits in nuscenes-devkit (WORLD_train). The folder of the tables takes its name when all of them are whole:
    whoever is interrupted leaves the tables of before, or none.
    """
    folder, part, before = out / version, out / f".{version}.part", out / f".{version}.before"
    mask = f"maps/{world}.png"
    write_atomic(out / mask, cv2.imencode(".png", np.full((64, 64), 255, np.uint8))[1].tobytes())
    for left in (part, before):
        shutil.rmtree(left, ignore_errors=True)
    with ExitStack() as stack:
        files = {name: TableWriter(stack.enter_context(open_atomic(part / f"{name}.json"))) for name in TABLES}

        def add(tables: Mapping[str, list[Row]]) -> None:
            for name, rows in tables.items():
                for row in rows:
                    files[name].add(row)

        add(static_tables())
        add(
            {
                "sensor": [
                    {"token": token_of("sensor", name), "channel": name, "modality": modality}
                    for name, modality in sensors.items()
                ]
            }
        )
        logs: dict[str, None] = {}
        for tables in scenes:
            new = [row for row in tables["log"] if row["token"] not in logs]
            logs |= {row["token"]: None for row in new}
            add({**tables, "log": new})
        of_map = {"token": token_of("map"), "log_tokens": list(logs), "category": "semantic_prior", "filename": mask}
        add({"map": [of_map]})
        for file in files.values():
            file.end()
    # Where nuscenes-devkit >= 1.2 looks for splits of one's own.
    write_json(part / "splits.json", {f"{world}_{name}": list(names) for name, names in splits.items()})
    if folder.exists():
        os.replace(folder, before)
    os.replace(part, folder)
    shutil.rmtree(before, ignore_errors=True)
    write_json(out / "splits.json", {name: list(names) for name, names in splits.items()})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON atomically."""
    write_atomic(path, _dumps(content))


def _dumps(content: Mapping[str, Any]) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
