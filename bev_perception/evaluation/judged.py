"""One frame, box by box: hits, false alarms and misses, by the rules that the score has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_perception.evaluation.matching import DISTANCES, MAX_BOXES, TRUE_AT, counts, descending, greedy
from bev_perception.evaluation.objects import Objects


@dataclass(frozen=True)
class Judged:
    """Of N detections and M objects of a frame.

    partner (N,): the object that a detection hits, -1 for none. false (N,) bool: it hits nothing and counts as a false
    alarm. missed (M,) bool: the object counts and nothing hits it. What is neither lies beyond its class's range.
    """

    partner: np.ndarray
    false: np.ndarray
    missed: np.ndarray

    @property
    def hit(self) -> np.ndarray:
        """(N,) bool."""
        return self.partner >= 0

    def totals(self) -> tuple[int, int, int]:
        """(hits, false alarms, misses)."""
        return int(self.hit.sum()), int(self.false.sum()), int(self.missed.sum())

    def errors(self) -> int:
        return int(self.false.sum() + self.missed.sum())


def judge(wanted: Objects, found: Objects) -> Judged:
    """At 2 m between centres of one class; the strongest detection takes the nearest object that is left. Both in the
    ego frame."""
    origin = np.zeros(2)
    due, taken = counts(wanted, origin), counts(found, origin)
    if len(found) > MAX_BOXES:
        taken &= np.isin(np.arange(len(found)), np.argsort(-found.scores, kind="stable")[:MAX_BOXES])
    partner = np.full(len(found), -1, dtype=np.int64)
    names, found_names = np.array(wanted.names, dtype=object), np.array(found.names, dtype=object)
    for name in set(wanted.names) & set(found.names):
        objects = np.flatnonzero(due & (names == name))
        boxes = np.flatnonzero(taken & (found_names == name))
        if not len(objects) or not len(boxes):
            continue
        metres = np.linalg.norm(found.boxes[boxes, None, :2] - wanted.boxes[None, objects, :2], axis=2)
        for i, j in greedy(metres, descending(found.scores[boxes]), DISTANCES[TRUE_AT]):
            partner[boxes[i]] = objects[j]
    missed = due.copy()
    missed[partner[partner >= 0]] = False
    return Judged(partner, taken & (partner < 0), missed)
