"""What choosing cost, by the size of the pool: rows of training.data_engine.scale, and lines through them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

WHOLE = 1_000_000  # frames, which the lines are drawn to


@dataclass(frozen=True)
class Row:
    """survey_s, choose_s: of CPU. mib: the most memory that the process had; disk_mib: of the store."""

    by: str
    frames: int
    budget: int
    survey_s: float
    choose_s: float
    mib: float
    disk_mib: float


def slope(rows: Sequence[Row]) -> tuple[float, float]:
    """(bytes of memory for each frame more, hours of CPU at WHOLE frames) of one strategy: straight lines through its
    sizes, by least squares."""
    frames = np.array([row.frames for row in rows], dtype=np.float64)
    memory = np.polyfit(frames, [row.mib * 2**20 for row in rows], 1)
    seconds = np.polyfit(frames, [row.survey_s + row.choose_s for row in rows], 1)
    return float(memory[0]), float(np.polyval(seconds, WHOLE)) / 3600


def to_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    writer.writerows([[f"{v:.2f}" if isinstance(v, float) else v for v in astuple(row)] for row in rows])
    return text.getvalue()
