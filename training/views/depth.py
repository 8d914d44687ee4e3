"""How far away is what a camera sees? Depth for a coarse lattice over its image, from LiDAR, boxes and the road."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from bev_perception.geometry import invert, transform_points

Floats = NDArray[np.float64]

FAR_M = 80.0  # what is known of nothing stands there
NEAR_M = 1.0
REACH = 4  # cells to the sides and upwards over which a LiDAR return stands for what is around it
STANDS_M = 0.3  # above the road; what is lower is road, which need not be as flat as it is taken for


def lattice(size: tuple[int, int], stride: int) -> tuple[Floats, Floats]:
    """(rows, columns) of the vertices over an image of (height, width): about every `stride` pixels, edges included."""
    height, width = size
    return (
        np.linspace(-0.5, height - 0.5, max(2, round(height / stride) + 1)),
        np.linspace(-0.5, width - 0.5, max(2, round(width / stride) + 1)),
    )


def lattice_depth(
    ego_from_cam: Floats, K: Floats, size: tuple[int, int], stride: int, points: Floats, boxes: Floats
) -> Floats:
    """Depth along the optical axis, m, of each vertex of `lattice`: (rows, columns), within [NEAR_M, FAR_M].

    The least of: the road (z 0 of the ego frame), boxes (M, 7) and LiDAR points (P, 3), both in the ego frame. A return
    stands for cells near it; what is above it and not known is as far away, as walls and trees are.
    """
    v, u = lattice(size, stride)
    rays = np.stack(np.broadcast_arrays((u - K[0, 2]) / K[0, 0], ((v - K[1, 2]) / K[1, 1])[:, None], 1.0), axis=-1)
    directions = rays @ ego_from_cam[:3, :3].T
    with np.errstate(divide="ignore"):
        road = np.where(directions[..., 2] < -1e-6, -ego_from_cam[2, 3] / directions[..., 2], np.inf)
    road = np.minimum(road, FAR_M)
    returns = _spread(_of_points(ego_from_cam, K, v, u, points[points[:, 2] > STANDS_M]))
    standing = np.minimum(_of_boxes(ego_from_cam[:3, 3], directions, boxes), returns)
    return np.clip(np.minimum(road, _upwards(standing)), NEAR_M, FAR_M)


def _of_boxes(origin: Floats, directions: Floats, boxes: Floats) -> Floats:
    """(rows, columns) t at which each ray enters a box (M, 7); inf for none."""
    nearest = np.full(directions.shape[:2], np.inf)
    for x, y, z, length, width, height, yaw in boxes[:, :7]:
        c, s = np.cos(yaw), np.sin(yaw)
        turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        start, along = turn @ (origin - [x, y, z]), directions @ turn.T
        half = np.array([length, width, height]) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = (-half - start) / along, (half - start) / along
        enters, leaves = np.minimum(one, other).max(-1), np.maximum(one, other).min(-1)
        hit = (enters < leaves) & (enters > NEAR_M)
        nearest[hit] = np.minimum(nearest[hit], enters[hit])
    return nearest


def _of_points(ego_from_cam: Floats, K: Floats, v: Floats, u: Floats, points: Floats) -> Floats:
    """(rows, columns) depth of the nearest LiDAR point about each vertex; inf where there is none."""
    depth = np.full((len(v), len(u)), np.inf)
    seen = transform_points(invert(ego_from_cam), points[:, :3])
    seen = seen[seen[:, 2] > NEAR_M]
    image = seen @ K.T
    column = np.rint((image[:, 0] / seen[:, 2] - u[0]) / (u[1] - u[0])).astype(np.int64)
    row = np.rint((image[:, 1] / seen[:, 2] - v[0]) / (v[1] - v[0])).astype(np.int64)
    inside = (row >= 0) & (row < len(v)) & (column >= 0) & (column < len(u))
    np.minimum.at(depth, (row[inside], column[inside]), seen[inside, 2])
    return depth


def _spread(depth: Floats) -> Floats:
    """Cells within REACH of a known one are as far away as the nearest of them."""
    unknown = np.isinf(depth)
    if unknown.all():
        return depth
    distance, labels = cv2.distanceTransformWithLabels(
        unknown.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    of_label = np.full(labels.max() + 1, np.inf)
    of_label[labels[~unknown]] = depth[~unknown]
    return np.where(distance <= REACH, of_label[labels], np.inf)


def _upwards(depth: Floats) -> Floats:
    """What is above the highest known cell of a column is as far away as that."""
    filled = depth.copy()
    for row in range(len(depth) - 2, -1, -1):  # from the bottom: rows grow downwards
        filled[row] = np.where(np.isinf(filled[row]), filled[row + 1], filled[row])
    below = np.isinf(depth) & ~np.isinf(filled)
    highest = np.argmin(np.isinf(depth), axis=0)  # first known row from the top
    rows = np.arange(len(depth))[:, None]
    return np.where(below & (rows > highest), np.inf, filled)
