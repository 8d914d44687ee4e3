"""Which of several boxes of one object stays: by the distance of centres, or by how far they overlap.

All functions take boxes by falling score. `group` numbers the boxes that thin each other out.
"""

from __future__ import annotations

import cv2
import numpy as np


def circle_nms(centers: np.ndarray, group: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(M, 2) centres, (M,) radii in m -> indices kept: each removes later ones of its group within their radius.

    CenterPoint's (Yin et al., CVPR 2021), in metres, not their squares. Whom nobody kept removes, stays: repeated until
    nothing changes, which is as often as removals hang on each other.
    """
    x, y = centers.T.astype(np.float32)
    near = np.square(x[:, None] - x) + np.square(y[:, None] - y) < np.square(radii, dtype=np.float32)[:, None]
    removed_by = np.tril(near & (group[:, None] == group), -1)
    keep, before = np.ones(len(centers), dtype=bool), None
    while before is None or (keep != before).any():
        # No matrix product: of this size OpenBLAS shares it among threads, which then wait for the next one in a loop.
        keep, before = ~(removed_by & keep).any(axis=1), keep
    return np.flatnonzero(keep)


def rotated_nms(boxes: np.ndarray, group: np.ndarray, iou: np.ndarray) -> np.ndarray:
    """(M, 7) -> indices kept: each removes later ones of its group that overlap it, seen from above, by more than their
    `iou` (M,)."""
    reach = np.hypot(boxes[:, 3], boxes[:, 4]) / 2
    alive = np.ones(len(boxes), dtype=bool)
    for i in range(len(boxes)):
        if not alive[i]:
            continue
        distance = np.hypot(*(boxes[i + 1 :, :2] - boxes[i, :2]).T)
        met = alive[i + 1 :] & (group[i + 1 :] == group[i]) & (distance < reach[i] + reach[i + 1 :])
        for j in i + 1 + np.flatnonzero(met):
            alive[j] = overlap(boxes[i], boxes[j]) <= iou[j]
    return np.flatnonzero(alive)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (7,), seen from above."""
    middle = (a[:2] + b[:2]) / 2  # float32 is exact enough near zero alone
    one, other = (((*(box[:2] - middle),), (box[3], box[4]), np.rad2deg(box[6])) for box in (a, b))
    corners = cv2.rotatedRectangleIntersection(one, other)[1]
    shared = float(cv2.contourArea(cv2.convexHull(corners))) if corners is not None and len(corners) > 2 else 0.0
    return shared / max(float(a[3] * a[4] + b[3] * b[4]) - shared, 1e-9)


def strongest(group: np.ndarray, most: np.ndarray) -> np.ndarray:
    """Indices of the first `most` (M,) of each group; 0: all."""
    stronger = np.tril(group[:, None] == group, -1).sum(axis=1)
    return np.flatnonzero((most == 0) | (stronger < most))
