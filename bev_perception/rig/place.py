"""Where each radar sits and looks, by what stands: what two radars saw of one thing must lie at one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from bev_perception.rig.standing import Returns, in_box_frame

ROUNDS, SHRINK = 25, 0.85
WIDEST_M, NARROWEST_M = 1.5, 0.5  # how far what belongs together may be apart: at first, and in the end
FLANN_INDEX_KDTREE_SINGLE = 4  # of OpenCV, which has no name for it in Python
FAR_M = 1e3  # between stretches of a drive, which are not to meet
DONE = 1e-4
HOLD = np.array([1.0, 1.0, 50.0])  # what holds a radar where it is that nothing says anything of

Equations = tuple[np.ndarray, np.ndarray, np.ndarray]  # normal: (3K, 3K), (3K,); (K,) sums of weights


@dataclass(frozen=True)
class Placed:
    """A radar's extrinsics must change by so much: x, y in metres along the vehicle's axes, yaw_deg about its place.
    pairs: how much that stands on."""

    x: float
    y: float
    yaw_deg: float
    pairs: float

    @property
    def metres(self) -> float:
        return float(np.hypot(self.x, self.y))


def placed_by_radars(returns: Returns) -> dict[str, Placed]:
    """Radar -> the change by which its returns of standing things fit those of all the others; radars without any in
    common are left out.

    Iterated closest points (Besl and McKay, 1992) of all radars at once, weights exp(-d^2 / 2 s^2) with s shrinking.
    What moves all radars alike is not seen: changes are from the median of all, of two each from the other.
    """
    deltas, pairs = _settled(len(returns.radars), lambda deltas, reach_m: _between(returns, deltas, reach_m))
    seen = pairs > 0
    if seen.sum() == 2:
        deltas[seen] -= deltas[seen][::-1]
    elif seen.any():
        deltas = deltas - np.median(deltas[seen], axis=0)
    return _named(returns, deltas, pairs)


def placed_by_boxes(returns: Returns) -> dict[str, Placed]:
    """Radar -> the change by which its returns lie on the sides of boxes that face it; radars without any are left
    out."""
    return _named(
        returns, *_settled(len(returns.radars), lambda deltas, reach_m: _to_boxes(returns.held, deltas, reach_m))
    )


def _named(returns: Returns, deltas: np.ndarray, pairs: np.ndarray) -> dict[str, Placed]:
    rows = zip(returns.radars, deltas.tolist(), pairs.tolist())
    return {name: Placed(x, y, float(np.degrees(yaw)), n) for name, (x, y, yaw), n in rows if n > 0}


def _settled(count: int, equations: Callable[[np.ndarray, float], Equations]) -> tuple[np.ndarray, np.ndarray]:
    """Gauss and Newton, while what belongs together may be apart less and less: changes (K, 3) and what they stand on
    (K,). equations(changes, metres apart)."""
    deltas, pairs = np.zeros((count, 3)), np.zeros(count)
    for turn in range(ROUNDS):
        reach_m = max(NARROWEST_M, WIDEST_M * SHRINK**turn)
        H, g, pairs = equations(deltas, reach_m)
        step = np.linalg.solve(H + np.diag(np.tile(HOLD, count)), g).reshape(-1, 3)
        deltas = deltas + step
        if np.abs(step).max(initial=0.0) < DONE and reach_m == NARROWEST_M:
            break
    return deltas, pairs


def _turned(arm: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.stack([c * arm[:, 0] - s * arm[:, 1], s * arm[:, 0] + c * arm[:, 1]], axis=1)


def _slope(arm: np.ndarray) -> np.ndarray:
    """(P, 2, 3): how a return at the end of `arm` moves in base_link with x, y and yaw of its radar."""
    slope = np.zeros((len(arm), 2, 3))
    slope[:, 0, 0] = slope[:, 1, 1] = 1.0
    slope[:, 0, 2], slope[:, 1, 2] = -arm[:, 1], arm[:, 0]
    return slope


def _between(returns: Returns, deltas: np.ndarray, reach_m: float) -> Equations:
    """Of all returns and their nearest of every other radar."""
    still, count = returns.still, len(deltas)
    if not len(still):
        return np.zeros((3 * count, 3 * count)), np.zeros(3 * count), np.zeros(count)
    radar = still["radar"]
    arm = _turned(still["arm"], deltas[radar, 2])
    turn, place = still["pose"][:, :, :2], still["pose"][:, :, 2]
    # About their middle: the search is in 32 bits, which of a northing (UTM) leave half a metre.
    places = np.einsum("pij,pj->pi", turn, arm + deltas[radar, :2]) + (place - place.mean(axis=0))
    slopes = turn @ _slope(arm)
    spread = np.column_stack([places, FAR_M * returns.stretch])
    rows = [np.flatnonzero(radar == k) for k in range(count)]
    trees = [_tree(spread[of]) if len(of) else None for of in rows]
    H, g, pairs = np.zeros((3 * count, 3 * count)), np.zeros(3 * count), np.zeros(count)
    for i in range(count):
        for j, tree in enumerate(trees):
            if i == j or tree is None or not len(rows[i]):
                continue
            distance, nearest = _nearest(tree, spread[rows[i]])
            found = distance <= 3 * reach_m
            a, b = rows[i][found], rows[j][nearest[found]]
            weight = np.exp(-0.5 * (distance[found] / reach_m) ** 2)
            apart = places[a] - places[b]
            at_i, at_j = slice(3 * i, 3 * i + 3), slice(3 * j, 3 * j + 3)
            for at, slope, sign in ((at_i, slopes[a], 1.0), (at_j, slopes[b], -1.0)):
                H[at, at] += np.einsum("p,pij,pik->jk", weight, slope, slope)
                g[at] -= sign * np.einsum("p,pij,pi->j", weight, slope, apart)
            across = np.einsum("p,pij,pik->jk", weight, slopes[a], slopes[b])
            H[at_i, at_j] -= across
            H[at_j, at_i] -= across.T
            pairs[[i, j]] += weight.sum()
    return H, g, pairs


def _tree(points: np.ndarray) -> Any:
    """Of OpenCV, which the vehicle has: one tree, searched exactly."""
    return cv2.flann_Index(points.astype(np.float32), {"algorithm": FLANN_INDEX_KDTREE_SINGLE})  # type: ignore[attr-defined]


def _nearest(tree: Any, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) distances and rows of the nearest points in the tree."""
    rows, squared = tree.knnSearch(points.astype(np.float32), 1, params={"checks": -1})
    return np.sqrt(squared[:, 0].astype(np.float64)), rows[:, 0].astype(np.int64)


def _to_boxes(held: np.ndarray, deltas: np.ndarray, reach_m: float) -> Equations:
    """Of returns and the sides of their boxes."""
    count, radar, boxes = len(deltas), held["radar"], held["box"]
    arm = _turned(held["arm"], deltas[radar, 2])
    sensor = held["mount"] + deltas[radar, :2]
    place, eye = in_box_frame(boxes, sensor + arm), in_box_frame(boxes, sensor)
    half = boxes[:, 3:5] / 2
    least, off = np.full(len(held), np.inf), np.zeros((len(held), 2))
    for axis in (0, 1):
        on_side = np.clip(place, -half, half)
        on_side[:, axis] = np.sign(eye[:, axis]) * half[:, axis]
        distance = np.linalg.norm(place - on_side, axis=1)
        nearer = (np.abs(eye[:, axis]) > half[:, axis]) & (distance < least)  # a side that faces the radar
        least[nearer], off[nearer] = distance[nearer], (place - on_side)[nearer]
    weight = np.exp(-0.5 * (least / reach_m) ** 2)
    off, slopes = _turned(off, boxes[:, 6]), _slope(arm)
    H, g = np.zeros((3 * count, 3 * count)), np.zeros(3 * count)
    for k in range(count):
        of, at = radar == k, slice(3 * k, 3 * k + 3)
        H[at, at] = np.einsum("p,pij,pik->jk", weight[of], slopes[of], slopes[of])
        g[at] = -np.einsum("p,pij,pi->j", weight[of], slopes[of], off[of])
    return H, g, np.bincount(radar, weight, minlength=count)
