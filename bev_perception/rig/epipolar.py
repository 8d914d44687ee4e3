"""Where a camera looks, by what moves in its images: what stands moves along lines that the vehicle's motion gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from bev_perception.geometry import invert

CORNERS, QUALITY, APART_PX = 300, 0.01, 8.0
BACK_PX = 0.5  # a point that is not found again on the way back was not the same
LEAST_FLOW_PX = 1.5  # nearer to where it was, a point lies on every line
FARTHEST_PX = 3.0  # of a line; further is what moves by itself, or a wrong match, and counts as this


@dataclass(frozen=True)
class Pair:
    """The same points (P, 2) in two images of one camera, pixels; img_from_cam (3, 3); before_from_after (4, 4): from
    the vehicle's frame at the later image to that at the earlier one."""

    before: np.ndarray
    after: np.ndarray
    img_from_cam: np.ndarray
    before_from_after: np.ndarray


def track(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grey images (H, W) uint8 -> the same corners in both, (P, 2) float64 each.

    Lucas-Kanade forth and back (Bouguet, 2000); what does not come back is left out.
    """
    found_corners = cv2.goodFeaturesToTrack(before, CORNERS, QUALITY, APART_PX)
    if found_corners is None:
        return np.empty((0, 2)), np.empty((0, 2))
    corners: np.ndarray = np.asarray(found_corners, dtype=np.float32)
    anywhere = np.zeros_like(corners)
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, anywhere)
    back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, there, anywhere.copy())
    near = np.linalg.norm((back - corners).reshape(-1, 2), axis=1) < BACK_PX
    good = (found.reshape(-1) == 1) & (again.reshape(-1) == 1) & near
    return corners.reshape(-1, 2)[good].astype(np.float64), there.reshape(-1, 2)[good].astype(np.float64)


def line_distances(pair: Pair, ego_from_cam: np.ndarray) -> np.ndarray:
    """(Q,) pixels from each point that moved to the line on which it must lie, if it stands, to first order.

    Sampson's distance (Hartley and Zisserman, Multiple View Geometry, 11.4.3) of the motion of this camera; points are
    left out that did not move beyond what the camera's turn explains.
    """
    before_from_after = invert(ego_from_cam) @ pair.before_from_after @ ego_from_cam
    R, t = before_from_after[:3, :3], before_from_after[:3, 3]
    K_inverse = np.linalg.inv(pair.img_from_cam)
    ones = np.ones((len(pair.before), 1))
    x0, x1 = np.hstack([pair.before, ones]), np.hstack([pair.after, ones])
    turned = x1 @ (pair.img_from_cam @ R @ K_inverse).T
    flow = pair.before - turned[:, :2] / turned[:, 2:]
    moved = np.linalg.norm(flow, axis=1) > LEAST_FLOW_PX
    x0, x1 = x0[moved], x1[moved]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    F = K_inverse.T @ cross @ R @ K_inverse
    lines0, lines1 = x1 @ F.T, x0 @ F
    off = np.sum(x0 * lines0, axis=1)
    length = np.sqrt((lines0[:, :2] ** 2).sum(axis=1) + (lines1[:, :2] ** 2).sum(axis=1))
    return np.abs(off) / np.maximum(length, 1e-12)


def mean_distance(pairs: Sequence[Pair], ego_from_cam: np.ndarray) -> float:
    """Pixels; NaN without a point that moved. What is far off counts as FARTHEST_PX."""
    distances = [line_distances(pair, ego_from_cam) for pair in pairs]
    found = np.concatenate(distances) if distances else np.empty(0)
    return float(np.minimum(found, FARTHEST_PX).mean()) if len(found) else float("nan")
