"""Points inside boxes, where there are many of both: only points near a box are tested at all."""

from __future__ import annotations

import numpy as np

from bev_perception.geometry import points_in_box

CELL_M = 1.0
CELLS = 1024  # at most, along each axis: a box that is far away must not make the map of cells large
EDGE = 1e-3  # of a cell: what float32 may shift a point by
ROUNDING_M = 0.01


def rows_inside(points: np.ndarray, boxes: np.ndarray, margin: float = 0.0) -> list[np.ndarray]:
    """(P, 3+) points and (M, 7) boxes of the same frame -> for each box the rows of the points in it, ascending.

    margin: metres by which boxes are grown on every side, as in `points_in_box`. A map of cells tells which points lie
    near any box; each box then tests those of them that are inside its circle, seen from above.
    """
    if not len(boxes) or not len(points):
        return [np.zeros(0, dtype=np.int64) for _ in boxes]
    radius = np.hypot(boxes[:, 3] / 2 + margin, boxes[:, 4] / 2 + margin) + ROUNDING_M
    near = _near(points, boxes[:, :2], radius)
    close = points[near]
    x, y = close[:, 0].astype(np.float64), close[:, 1].astype(np.float64)
    found = []
    for box, reach in zip(boxes, radius, strict=True):
        circle = np.flatnonzero((x - box[0]) ** 2 + (y - box[1]) ** 2 <= reach**2)
        found.append(near[circle[points_in_box(close[circle], box, margin)]])
    return found


def _near(points: np.ndarray, centers: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Rows of the points in cells that the square around any of the circles touches: all within a circle, few more."""
    low, high = (centers - radius[:, None]).min(axis=0), (centers + radius[:, None]).max(axis=0)
    cell = np.maximum(CELL_M, (high - low) / (CELLS - 1))
    low = low - cell / 100
    count = np.floor((high - low) / cell).astype(int) + 1
    touched = np.zeros(count + 2, dtype=bool)  # with a border, which no box touches, for the points outside
    first = np.floor((centers - radius[:, None] - low) / cell - EDGE).astype(int) + 1
    last = np.floor((centers + radius[:, None] - low) / cell + EDGE).astype(int) + 2
    for (x0, y0), (x1, y1) in zip(first, last, strict=True):
        touched[x0:x1, y0:y1] = True
    rows = np.zeros(len(points), dtype=np.int32)
    for axis, length in enumerate(touched.shape):
        place = points[:, axis] * points.dtype.type(1 / cell[axis])
        place += points.dtype.type(1 - low[axis] / cell[axis])
        rows *= length
        rows += np.clip(place, 0, length - 1, out=place).astype(np.int32)
    return np.flatnonzero(touched.ravel()[rows])
