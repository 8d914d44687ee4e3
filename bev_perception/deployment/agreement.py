"""How well two models agree on the same frames: sums over matched boxes, which can be added up in any order.

Matched as nuScenes matches detections to objects (Caesar et al., CVPR 2020): by falling score, the nearest box of the
same class that is left, by the distance of centres on the ground, within MATCH_M.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bev_perception.structures import Detections

MATCH_M = 2.0
RANGES_M = (15.0, 30.0, 50.0)  # upper ends of the bins of distance from base_link; a last one is beyond


@dataclass(frozen=True)
class Cell:
    """One class in one bin of range. both: matched pairs; mine, theirs: boxes of one model without partner. Sums over
    the pairs: distance of centres (m), difference of velocity (m/s), of score."""

    both: int = 0
    mine: int = 0
    theirs: int = 0
    distance_m: float = 0.0
    velocity_mps: float = 0.0
    score: float = 0.0

    def __add__(self, other: Cell) -> Cell:
        return Cell(
            self.both + other.both,
            self.mine + other.mine,
            self.theirs + other.theirs,
            self.distance_m + other.distance_m,
            self.velocity_mps + other.velocity_mps,
            self.score + other.score,
        )

    @property
    def share(self) -> float:
        """Boxes of both that have a partner, of all boxes of both; NaN where neither has any."""
        boxes = 2 * self.both + self.mine + self.theirs
        return 2 * self.both / boxes if boxes else float("nan")


@dataclass(frozen=True)
class Agreement:
    """Sums over `frames`. cells: (class name, bin of range) -> Cell."""

    frames: int = 0
    cells: dict[tuple[str, int], Cell] = field(default_factory=dict)

    def __add__(self, other: Agreement) -> Agreement:
        keys = {**self.cells, **other.cells}
        merged = {key: self.cells.get(key, Cell()) + other.cells.get(key, Cell()) for key in keys}
        return Agreement(self.frames + other.frames, merged)

    def total(self, name: str | None = None, bin: int | None = None) -> Cell:
        """Over all classes and ranges, or over one of either."""
        chosen = [c for (n, b), c in self.cells.items() if name in (None, n) and bin in (None, b)]
        return sum(chosen, Cell())

    def figures(self) -> dict[str, float]:
        """For the journal: the whole, and the class that agrees least."""
        whole = self.total()
        pairs = max(whole.both, 1)
        figures = {
            "frames": float(self.frames),
            "agreement": whole.share,
            "matched": float(whole.both),
            "only_shadow": float(whole.mine),
            "only_serving": float(whole.theirs),
            "distance_m": whole.distance_m / pairs,
            "velocity_mps": whole.velocity_mps / pairs,
        }
        return {name: value for name, value in figures.items() if value == value}


def compare(mine: Detections, my_classes: Sequence[str], theirs: Detections, their_classes: Sequence[str]) -> Agreement:
    """Of one frame. The bin is that of the partner in `theirs`, of a box without partner its own."""
    names, others = ([c[label] for label in d.labels] for d, c in ((mine, my_classes), (theirs, their_classes)))
    distance = np.linalg.norm(mine.boxes[:, None, :2].astype(float) - theirs.boxes[None, :, :2], axis=2)
    same = np.array(names, dtype=object)[:, None] == np.array(others, dtype=object)[None]
    distance[~same | (distance > MATCH_M)] = np.inf
    cells: dict[tuple[str, int], Cell] = {}

    def add(name: str, box: np.ndarray, cell: Cell) -> None:
        key = (name, int(np.searchsorted(RANGES_M, float(np.hypot(box[0], box[1])))))
        cells[key] = cells.get(key, Cell()) + cell

    free = set(range(len(theirs)))
    for row, name in enumerate(names):  # sorted by falling score
        column = int(np.argmin(distance[row])) if free else -1
        if column < 0 or not np.isfinite(distance[row, column]):
            add(name, mine.boxes[row], Cell(mine=1))
            continue
        free.discard(column)
        apart = float(distance[row, column])
        velocity = float(np.linalg.norm(mine.velocity[row] - theirs.velocity[column]))
        score = abs(float(mine.scores[row]) - float(theirs.scores[column]))
        add(name, theirs.boxes[column], Cell(1, 0, 0, apart, velocity, score))
        distance[:, column] = np.inf
    for column in sorted(free):
        add(others[column], theirs.boxes[column], Cell(theirs=1))
    return Agreement(1, cells)
