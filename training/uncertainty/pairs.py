"""Detections of drives beside what was there: what probabilities and deviations are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from bev_perception.evaluation.box_errors import box_errors
from bev_perception.evaluation.judged import judge
from bev_perception.evaluation.objects import Objects
from bev_perception.spread import METRIC_CHANNELS
from bev_perception.uncertainty import CHANNELS, in_line_of_sight


@dataclass(frozen=True)
class Pairs:
    """N detections. labels (N,) int64; scores, metres (N,) float64; right (N,) bool: an object of the class within 2 m
    is its; errors (N, 9) of CHANNELS (m, rad, m/s), NaN where there is none; scenes (N,) int64 numbers of their
    drives; said (N, 10): the network's own deviations of METRIC_CHANNELS, zeros where it says nothing."""

    labels: np.ndarray
    scores: np.ndarray
    metres: np.ndarray
    right: np.ndarray
    errors: np.ndarray
    scenes: np.ndarray
    said: np.ndarray

    def select(self, mask: np.ndarray) -> Pairs:
        return Pairs(**{field.name: getattr(self, field.name)[mask] for field in fields(self)})


def join_pairs(parts: Sequence[Pairs]) -> Pairs:
    """Those of several frames; at least one."""
    return Pairs(**{field.name: np.concatenate([getattr(p, field.name) for p in parts]) for field in fields(Pairs)})


def pairs_of(
    wanted: Objects, found: Objects, classes: Sequence[str], scene: int, said: np.ndarray | None = None
) -> Pairs:
    """One frame, both in the ego frame; said (M, METRIC_CHANNELS): deviations of what was found. As detections are
    scored: see judged.judge."""
    said = np.zeros((len(found), len(METRIC_CHANNELS))) if said is None else said
    judged = judge(wanted, found)
    errors = np.full((len(found), len(CHANNELS)), np.nan)
    right = np.flatnonzero(judged.hit)
    errors[right] = _in_line_of_sight(found.boxes[right], box_errors(wanted, found, right, judged.partner[right]))
    rows = np.flatnonzero(judged.hit | judged.false)
    labels = np.array([classes.index(found.names[row]) for row in rows], dtype=np.int64)
    metres = np.hypot(found.boxes[rows, 0], found.boxes[rows, 1])
    scenes = np.full(len(rows), scene, dtype=np.int64)
    return Pairs(labels, found.scores[rows], metres, judged.hit[rows], errors[rows], scenes, said[rows])


def _in_line_of_sight(boxes: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """(K, 9) of BOX_ERRORS -> of CHANNELS, which differ in how places and velocities are given."""
    turned = errors.copy()
    turned[:, 0:2], turned[:, 4:6] = in_line_of_sight(boxes, errors[:, 0:2]), in_line_of_sight(boxes, errors[:, 4:6])
    return turned
