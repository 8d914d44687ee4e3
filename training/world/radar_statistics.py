"""What tells a real radar from a simulated one: pure functions on returns and boxes, and distances between results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

PROBABILITIES = np.linspace(0.0, 1.0, 21)
UNAMBIGUOUS = 3
STILL = (1, 3)  # dyn_prop: stationary, candidate for it


def polar(returns: NDArray[np.void]) -> tuple[Floats, Floats]:
    """Distance (m) and azimuth (rad) of the returns, in the sensor frame."""
    x, y = returns["x"].astype(float), returns["y"].astype(float)
    return np.hypot(x, y), np.arctan2(y, x)


def over_ground(returns: NDArray[np.void]) -> Floats:
    """Compensated radial speed in m/s, positive away from the sensor."""
    distance, _ = polar(returns)
    along = returns["x"].astype(float) * returns["vx_comp"] + returns["y"].astype(float) * returns["vy_comp"]
    return along / np.maximum(distance, 0.1)


def passes(returns: NDArray[np.void]) -> Flags:
    """Those that nuScenes' default filter keeps: valid, unambiguous, of a known motion (RadarPointCloud)."""
    return (returns["invalid_state"] == 0) & (returns["ambig_state"] == UNAMBIGUOUS) & (returns["dyn_prop"] < 7)


def in_boxes(points: Floats, boxes: Floats) -> NDArray[np.bool_]:
    """(M, P) which of the points (P, 3) are in which of the boxes (M, 7) x y z l w h yaw, upright, same frame.

    nuScenes' num_radar_pts counts the unfiltered returns of all radars so, each moved to where the sensor was then.
    """
    along, across, up = _inside(points, boxes)
    half = boxes[:, None, 3:6] / 2
    return (np.abs(along) <= half[..., 0]) & (np.abs(across) <= half[..., 1]) & (np.abs(up) <= half[..., 2])


def beside_boxes(points: Floats, boxes: Floats) -> Floats:
    """(M, P) how far outside a box's outline a point lies, seen from above, in metres; 0 within."""
    along, across, _ = _inside(points, boxes)
    half = boxes[:, None, 3:5] / 2
    return np.hypot(np.maximum(np.abs(along) - half[..., 0], 0), np.maximum(np.abs(across) - half[..., 1], 0))


def depths(points: Floats, box: Floats, origin: Floats) -> tuple[Floats, Floats]:
    """Where points (P, 2) of a sensor at `origin` (2,) lie in a box (7,), seen from above.

    -> how far behind the box's near side each is along its ray (m, NaN where the ray misses the outline), and its
    azimuth from the middle of what the sensor sees of the box, in halves of that width (1: at its edge).
    """
    corners = _corners(box) - origin
    middle = np.arctan2(box[1] - origin[1], box[0] - origin[0])
    edges = _turned(np.arctan2(corners[:, 1], corners[:, 0]) - middle)
    low, high = edges.min(), edges.max()
    seen = points - origin
    bearing = _turned(np.arctan2(seen[:, 1], seen[:, 0]) - middle)
    aside = (bearing - (low + high) / 2) / max((high - low) / 2, 1e-6)
    # The ray in the box's frame, cut by its two pairs of sides.
    c, s = np.cos(box[6]), np.sin(box[6])
    turn = np.array([[c, -s], [s, c]])
    start, unit = (origin - box[:2]) @ turn, seen / np.linalg.norm(seen, axis=1)[:, None] @ turn
    with np.errstate(divide="ignore", invalid="ignore"):
        cuts = np.stack([(-box[3:5] / 2 - start) / unit, (box[3:5] / 2 - start) / unit])
    enters, leaves = cuts.min(axis=0).max(axis=1), cuts.max(axis=0).min(axis=1)
    behind = np.where(enters <= leaves, np.linalg.norm(seen, axis=1) - enters, np.nan)
    return behind, aside


def clustered_mean(values: ArrayLike, clusters: Sequence[object] | NDArray) -> tuple[float, float, int]:
    """Mean, its standard error when values of one cluster (an object, a stretch of a drive) go together, and how many
    clusters there are.

    The error of a ratio of sums over clusters (Cochran, Sampling Techniques, 1977, section 2.11); NaN of one cluster.
    Raises ValueError without values.
    """
    x = np.asarray(values, dtype=float)
    if not len(x):
        raise ValueError("a mean needs at least one value")
    names, of = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(of, x - x.mean(), len(names))
    groups = len(names)
    if groups < 2:
        return float(x.mean()), float("nan"), groups
    return float(x.mean()), float(np.sqrt((sums**2).sum() * groups / (groups - 1)) / len(x)), groups


def kolmogorov_smirnov(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float:
    """Greatest difference of two distribution functions, given by quantiles at PROBABILITIES and straight between.

    Of quantities on a grid, whose quantiles repeat, the function's lower and upper value at a step are compared.
    """
    at = np.union1d(a, b)
    return max(float(np.abs(_share_below(a, at, s) - _share_below(b, at, s)).max()) for s in ("left", "right"))


def _share_below(quantiles: Sequence[float] | Floats, at: Floats, side: str) -> Floats:
    """The distribution function at `at`; of a step its lower (left) or upper (right) end."""
    q = np.asarray(quantiles, dtype=float)
    straight = np.interp(at, q, PROBABILITIES)
    first, last = np.searchsorted(q, at, "left"), np.searchsorted(q, at, "right")
    end = np.where(side == "left", first, last - 1)
    return np.where(last > first, PROBABILITIES[np.clip(end, 0, len(q) - 1)], straight)


def nearest(points: Floats, others: Floats) -> Floats:
    """(P,) distance of each of the points (P, 2) to the nearest of the others (Q, 2); inf without any."""
    if not len(others):
        return np.full(len(points), np.inf)
    return np.hypot(*(points[:, None, :] - others[None]).transpose(2, 0, 1)).min(axis=1)


def _inside(points: Floats, boxes: Floats) -> tuple[Floats, Floats, Floats]:
    c, s = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    dx, dy = points[None, :, 0] - boxes[:, None, 0], points[None, :, 1] - boxes[:, None, 1]
    return c * dx + s * dy, c * dy - s * dx, points[None, :, 2] - boxes[:, None, 2]


def _corners(box: Floats) -> Floats:
    c, s = np.cos(box[6]), np.sin(box[6])
    return (np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * box[3:5] / 2) @ np.array([[c, s], [-s, c]]) + box[:2]


def _turned(angle: Floats) -> Floats:
    return (angle + np.pi) % (2 * np.pi) - np.pi
