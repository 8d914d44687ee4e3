"""Frame tables of two results beside each other: where do they differ most?"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from bev_perception.evaluation.drive import FRAMES


def worst_differences(before: Mapping[str, Path], now: Mapping[str, Path], count: int) -> list[str]:
    """Name of a drive -> folder, of two results -> a line for each of the frames in which misses and false alarms
    together changed most, the largest change first."""
    changes = []
    for name in before:
        old, new = _errors(before[name] / FRAMES), _errors(now[name] / FRAMES)
        changes += [(new[stamp] - old[stamp], name, stamp) for stamp in old.keys() & new.keys()]
    changes.sort(key=lambda change: (-abs(change[0]), change[1:]))
    words = {True: "more", False: "fewer"}
    return [
        f"  {name}, stamp {stamp / 1e9:.3f} s: {abs(change)} misses and false alarms {words[change > 0]}"
        for change, name, stamp in changes[:count]
        if change
    ]


def _errors(path: Path) -> dict[int, int]:
    """Stamp -> misses and false alarms, of the frames that have ground truth."""
    with open(path, newline="") as file:
        return {
            int(row["stamp_ns"]): int(row["false"]) + int(row["missed"])
            for row in csv.DictReader(file)
            if row["missed"]
        }
