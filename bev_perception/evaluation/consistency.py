"""How well a run agrees with itself and with the radars, where nobody has annotated anything: boxes are followed from
frame to frame, and what a good detector would do least (let an object flicker, contradict its own velocity, turn it
around) is counted."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bev_perception.evaluation.matching import descending, greedy
from bev_perception.geometry import points_in_box, rotation_from_yaw
from bev_perception.structures import Detections, EgoPose

FOLLOW_M = 2.0  # from where its velocity leads it, within which a box of the same class is the same object
LONGEST_S = 0.6  # between two frames; over a longer gap nobody is followed
MOVES_MPS = 1.0  # whose direction says something
RADAR_MARGIN_M = 0.5
RADAR_RANGE_M = 40.0
VEHICLES = ("car", "truck", "bus", "trailer", "construction_vehicle")  # which a radar sees by rights


@dataclass(frozen=True)
class Followed:
    """The boxes of one frame in the frame `odom`: centres (M, 2) m, velocity (M, 2) m/s, yaw (M,) rad."""

    stamp_ns: int
    epoch: int
    centres: np.ndarray
    velocity: np.ndarray
    yaw: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Consistency:
    """Add the frames of one drive in their order; `figures` sums up.

    Of each pair of neighbouring frames: which boxes have a successor, and which come back after one frame without.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._vehicle = np.array([name in VEHICLES for name in classes])
        self._previous: Followed | None = None
        self._lost: Followed | None = None  # of the frame before the previous one, without successor there
        self._followable = self._kept = self._returned = self._turned = self._moving = 0
        self._place_m, self._radial_mps = array("f"), array("f")
        self._vehicles = self._seen_by_radar = 0

    def add(self, detections: Detections, ego: EgoPose, radar: np.ndarray) -> None:
        """radar (P, 7): the frame's returns, POINT_COLUMNS of bev_perception.preprocess.radar, in the ego frame."""
        self._compare_with_radar(detections, radar)
        now = _in_odom(detections, ego)
        before, self._previous = self._previous, now
        lost, self._lost = self._lost, None
        if before is None or before.epoch != now.epoch or not 0 < now.stamp_ns - before.stamp_ns <= LONGEST_S * 1e9:
            return
        pairs = _pairs(before, now)
        old, new = pairs[:, 0], pairs[:, 1]
        self._followable += len(before.labels)
        self._kept += len(pairs)
        self._note_motion(before, now, old, new)
        if lost is not None and now.stamp_ns - lost.stamp_ns <= LONGEST_S * 1e9:
            self._returned += len(_pairs(lost, _without(now, new)))
        self._lost = _without(before, old)

    def figures(self) -> dict[str, float]:
        """Shares and medians; NaN where nothing was there to go by.

        kept: boxes with a successor in the next frame. flicker: boxes that are gone for one frame and back in the next.
        place_m: how far the successor lies from where the velocity led. turned_around: moving successors whose heading
        is off by more than a quarter turn. radar_seen: vehicles' boxes within 40 m with a return; radial_mps: how far
        their velocity along the line of sight is off the returns'.
        """
        return {
            "kept": _share(self._kept, self._followable),
            "flicker": _share(self._returned, self._followable),
            "turned_around": _share(self._turned, self._moving),
            "place_m": _median(self._place_m),
            "radar_seen": _share(self._seen_by_radar, self._vehicles),
            "radial_mps": _median(self._radial_mps),
        }

    def _note_motion(self, before: Followed, now: Followed, old: np.ndarray, new: np.ndarray) -> None:
        seconds = (now.stamp_ns - before.stamp_ns) * 1e-9
        way = now.centres[new] - before.centres[old]
        velocity = np.nan_to_num(before.velocity[old])
        self._place_m.extend(np.linalg.norm(way - velocity * seconds, axis=1).tolist())
        moving = np.linalg.norm(velocity, axis=1) > MOVES_MPS
        turn = np.abs((now.yaw[new] - before.yaw[old] + np.pi) % (2 * np.pi) - np.pi)
        self._moving += int(moving.sum())
        self._turned += int((turn[moving] > np.pi / 2).sum())

    def _compare_with_radar(self, detections: Detections, radar: np.ndarray) -> None:
        boxes = detections.boxes.astype(np.float64)
        near = self._vehicle[detections.labels] & (np.linalg.norm(boxes[:, :2], axis=1) < RADAR_RANGE_M)
        for k in np.flatnonzero(near) if len(radar) else ():
            box = np.concatenate([boxes[k, :2], [0.0], boxes[k, 3:5], [1e6], boxes[k, 6:7]])  # a radar knows no height
            points = radar[points_in_box(radar[:, :3], box, RADAR_MARGIN_M)]
            self._vehicles += 1
            self._seen_by_radar += bool(len(points))
            velocity = detections.velocity[k].astype(np.float64)
            if len(points) and np.isfinite(velocity).all():
                sight = points[:, :2] / np.maximum(np.linalg.norm(points[:, :2], axis=1, keepdims=True), 1e-6)
                measured = np.median((points[:, 4:6] * sight).sum(axis=1))
                self._radial_mps.append(abs(float(velocity @ sight.mean(axis=0)) - float(measured)))


def _in_odom(d: Detections, ego: EgoPose) -> Followed:
    rotation, origin = ego.odom_from_ego[:3, :3], ego.odom_from_ego[:3, 3]
    level = np.arctan2(rotation[1, 0], rotation[0, 0])
    turn = rotation_from_yaw(level)[:2, :2]
    centres = d.boxes[:, :2].astype(np.float64) @ turn.T + origin[:2]
    velocity = d.velocity.astype(np.float64) @ turn.T
    return Followed(d.stamp_ns, ego.epoch, centres, velocity, d.boxes[:, 6] + level, d.scores, d.labels)


def _pairs(before: Followed, now: Followed) -> np.ndarray:
    """(K, 2) indices of the same objects: the strongest new box takes the nearest old one of its class that is left."""
    seconds = (now.stamp_ns - before.stamp_ns) * 1e-9
    led = before.centres + np.nan_to_num(before.velocity) * seconds
    metres = np.linalg.norm(now.centres[:, None] - led[None], axis=2)
    metres[now.labels[:, None] != before.labels[None]] = np.inf
    found = greedy(metres, descending(now.scores), FOLLOW_M)
    return np.array([(old, new) for new, old in found], dtype=np.int64).reshape(-1, 2)


def _without(frame: Followed, taken: np.ndarray) -> Followed:
    left = np.setdiff1d(np.arange(len(frame.labels)), taken)
    parts = (frame.centres, frame.velocity, frame.yaw, frame.scores, frame.labels)
    return Followed(frame.stamp_ns, frame.epoch, *(part[left] for part in parts))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _median(values: array[float]) -> float:
    return float(np.median(values)) if len(values) else float("nan")
