"""Detections of drives beside what was there: what probabilities and deviations are fitted to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from bev_perception.evaluation.matching import CLASS_RANGE, greedy
from bev_perception.evaluation.objects import Objects
from bev_perception.spread import METRIC_CHANNELS
from bev_perception.uncertainty import CHANNELS, in_line_of_sight
from training.losses.spread import HALF_TURN, MATCHED_M, NO_HEADING, NO_SPEED


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
    """One frame, both in the ego frame; said (M, METRIC_CHANNELS): deviations of what was found. As the benchmark
    counts: objects without a point are no objects, each is taken once, by the strongest detection near it, and what is
    beyond a class's range is left out."""
    parts = []
    said = np.zeros((len(found), len(METRIC_CHANNELS))) if said is None else said
    for label, name in enumerate(classes):
        limit = CLASS_RANGE[name]
        own = [np.array([n == name for n in p.names], dtype=bool) & (_metres(p) < limit) for p in (wanted, found)]
        objects, detections = wanted.select(own[0] & (wanted.num_points != 0)), found.select(own[1])
        count = len(detections)
        errors, right = np.full((count, len(CHANNELS)), np.nan), np.zeros(count, dtype=bool)
        if count and len(objects):
            offset = detections.boxes[:, None, :2] - objects.boxes[None, :, :2]
            order = np.argsort(-detections.scores, kind="stable")
            pairs = greedy(np.linalg.norm(offset, axis=2), order, MATCHED_M)
            if pairs:
                rows, partners = (np.array(side) for side in zip(*pairs, strict=True))
                right[rows] = True
                errors[rows] = _errors(detections, objects, rows, partners, name)
        parts.append(
            Pairs(
                np.full(count, label, dtype=np.int64), detections.scores, _metres(detections), right, errors,
                np.full(count, scene, dtype=np.int64), said[own[1]],
            )
        )  # fmt: skip
    return join_pairs(parts)


def _metres(objects: Objects) -> np.ndarray:
    return np.hypot(objects.boxes[:, 0], objects.boxes[:, 1])


def _errors(detections: Objects, objects: Objects, rows: np.ndarray, partners: np.ndarray, name: str) -> np.ndarray:
    """(K, 9) of CHANNELS: predicted minus true."""
    ours, theirs = detections.boxes[rows], objects.boxes[partners]
    place = in_line_of_sight(ours, ours[:, :2] - theirs[:, :2])
    speed = in_line_of_sight(ours, detections.velocity[rows] - objects.velocity[partners])
    period = np.pi if name in HALF_TURN else 2 * np.pi
    yaw = (ours[:, 6] - theirs[:, 6] + period / 2) % period - period / 2
    if name in NO_HEADING:
        yaw = np.full(len(rows), np.nan)
    if name in NO_SPEED:
        speed = np.full((len(rows), 2), np.nan)
    return np.column_stack([place, ours[:, 2] - theirs[:, 2], yaw, speed, ours[:, 3:6] - theirs[:, 3:6]])
