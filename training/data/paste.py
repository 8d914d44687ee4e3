"""Objects of other keyframes pasted into a cloud, LiDAR and radar points together (CenterPoint's database sampling).

Images cannot be pasted into, so runs with cameras cannot use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from bev_perception.geometry import box_corners
from bev_perception.model_spec import CLASSES
from training.data.inside import rows_inside

OWN_BOX = np.array([1.4, 0.0, 0.9, 5.2, 2.2, 1.8, 0.0])  # nothing is pasted into the vehicle itself


@dataclass(frozen=True)
class Objects:
    """Boxes (M, 7) and velocity (M, 2) in the ego frame, labels (M,) into CLASSES, and their points: lidar (P, 5),
    radar (P, 7) as the accumulated clouds have them."""

    boxes: np.ndarray
    velocity: np.ndarray
    labels: np.ndarray
    lidar: np.ndarray
    radar: np.ndarray


@dataclass(frozen=True)
class ObjectDatabase:
    """box (O, 7), velocity (O, 2), label (O,) into CLASSES; the points of object i are [end[i - 1], end[i]) of lidar
    and radar. training.data.database makes it."""

    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.arrays["label"])

    @cached_property
    def of_class(self) -> list[np.ndarray]:
        """For each of CLASSES its objects, ascending: looked for once, not for every frame."""
        labels = np.asarray(self.arrays["label"])
        order = np.argsort(labels, kind="stable")
        ends = np.searchsorted(labels[order], np.arange(len(CLASSES) + 1))
        return [order[start:end] for start, end in pairwise(ends)]

    def points(self, kind: str, i: int) -> np.ndarray:
        """kind: lidar or radar."""
        ends = self.arrays[f"{kind}_end"]
        return np.array(self.arrays[kind][int(ends[i - 1]) if i else 0 : int(ends[i])])

    def draw(
        self, boxes: np.ndarray, labels: np.ndarray, counts: Sequence[tuple[str, int]], rng: np.random.Generator
    ) -> Objects:
        """Objects that fill a frame with `boxes` and `labels` (into CLASSES) up to `counts`, where they were in their
        own frames. What would overlap, seen from above, with anything there or pasted before is left out."""
        chosen: list[int] = []
        occupied = np.concatenate([boxes, OWN_BOX[None]])
        for name, count in counts:
            label = CLASSES.index(name)
            candidates = self.of_class[label]
            wanted = min(count - int((labels == label).sum()), len(candidates))
            for i in rng.choice(candidates, max(0, wanted), replace=False):
                box = np.array(self.arrays["box"][i])
                if not overlaps(box, occupied).any():
                    chosen.append(int(i))
                    occupied = np.concatenate([occupied, box[None]])
        return Objects(
            np.array(self.arrays["box"][chosen]).reshape(-1, 7),
            np.array(self.arrays["velocity"][chosen]).reshape(-1, 2),
            np.array(self.arrays["label"][chosen], dtype=np.int64),
            np.concatenate([self.points("lidar", i) for i in chosen] or [np.zeros((0, 5), np.float32)]),
            np.concatenate([self.points("radar", i) for i in chosen] or [np.zeros((0, 7), np.float32)]),
        )


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(7,) and (M, 7) -> (M,) bool: do the footprints overlap? Two rectangles are apart exactly if an axis of one of
    them separates them; those whose circles are apart need no such axis."""
    apart = np.hypot(*(boxes[:, :2] - box[:2]).T) > (np.hypot(*boxes[:, 3:5].T) + np.hypot(*box[3:5])) / 2
    close = np.flatnonzero(~apart)
    if not len(close):
        return ~apart
    a, b = _footprint(box[None]), _footprint(boxes[close])  # (1, 4, 2), (M, 4, 2)
    for corners in (np.broadcast_to(a, b.shape), b):
        for k in (0, 1):
            axis = corners[:, k + 1] - corners[:, k]
            of_a, of_b = (np.einsum("mkd,md->mk", np.broadcast_to(c, b.shape), axis) for c in (a, b))
            apart[close] |= (of_a.max(axis=1) <= of_b.min(axis=1)) | (of_b.max(axis=1) <= of_a.min(axis=1))
    return ~apart


def _footprint(boxes: np.ndarray) -> np.ndarray:
    """(M, 7) -> (M, 4, 2) corners in turn."""
    return box_corners(boxes)[:, :4, :2]


def without_points_in(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Points of a cloud that are in none of the boxes: pasted objects do not share their place."""
    free = np.ones(len(points), dtype=bool)
    for rows in rows_inside(points, boxes):
        free[rows] = False
    return points[free]
