"""A result of `evaluate` beside an earlier one, drive by drive."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bev_perception.evaluation.drive import FRAMES, DriveResult, read_drive
from bev_perception.evaluation.metrics import Scores
from bev_perception.evaluation.paired import Difference, compare_scores
from bev_perception.evaluation.summary import DRIVES, drift, scores_of, tallies

SHOWN = 5  # frames in which two results differ most


@dataclass(frozen=True)
class Compared:
    """With a baseline: figures `gain.*` and `drift.*`, and sentences for a person. before, now: the scores of the
    drives that both have with ground truth, None without such."""

    figures: dict[str, float]
    told: tuple[str, ...]
    before: Scores | None
    now: Scores | None


def compare(out: Path, baseline: Path, names: Sequence[str], results: Sequence[DriveResult]) -> Compared:
    """This result against an earlier one, drive by drive. Raises ValueError where they have no drive in common."""
    common = [name for name in names if (baseline / DRIVES / name).is_dir() and (out / DRIVES / name).is_dir()]
    if not common:
        raise ValueError(f"{baseline} has none of these recordings; it has {_listed(baseline / DRIVES)}")
    ours, theirs = ([folder / DRIVES / name for name in common] for folder in (out, baseline))
    before = [read_drive(folder) for folder in theirs]
    now = [read_drive(folder) for folder in ours]
    figures = drift(now, before)
    told = [f"against {before[0].model} ({before[0].model_sha256[:12]}), {len(common)} drives in common:"]
    mine, other = tallies(ours), tallies(theirs)
    both = [name for name in common if name in mine and name in other]
    if not both:
        return Compared(figures, tuple(told), None, None)
    found = compare_scores([other[name] for name in both], [mine[name] for name in both])
    figures |= {f"gain.{name}": d.value for name, d in found.items()}
    figures |= {f"gain.{name}.low": d.low for name, d in found.items()}
    told += [_gain(name, d, len(both)) for name, d in found.items()]
    told += worst_differences(dict(zip(common, theirs)), dict(zip(common, ours)), SHOWN)
    scores = [scores_of({name: drives[name] for name in both}) for drives in (other, mine)]
    return Compared(figures, tuple(told), *scores)


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


def _gain(name: str, d: Difference, drives: int) -> str:
    label = {"mean_ap": "mAP", "nds": "NDS"}[name]
    if math.isnan(d.low):
        return f"  {d.value * 100:+.1f} points of {label} on one drive, which tells no spread"
    verdict = "better" if d.low > 0 else "worse" if d.high < 0 else "no difference that these drives could tell"
    return f"  {d.text()} points of {label} (95 % of draws of {drives} drives): {verdict}"


def _listed(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.glob("*"))[:10]) if folder.is_dir() else "no drives"
