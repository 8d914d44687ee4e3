"""Rigid transforms, poses in time and boxes. `a_from_b` is the 4x4 float64 with p_a = a_from_b @ p_b."""

from __future__ import annotations

import numpy as np


def make_transform(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """(3, 3) rotation and (3,) metres -> (4, 4) float64."""
    a_from_b = np.eye(4)
    a_from_b[:3, :3] = rotation
    a_from_b[:3, 3] = translation
    return a_from_b


def invert(a_from_b: np.ndarray) -> np.ndarray:
    """Inverse of a rigid transform, (..., 4, 4); exact transposition instead of a general inverse."""
    rotation_t = np.swapaxes(a_from_b[..., :3, :3], -1, -2)
    b_from_a = np.zeros_like(a_from_b)
    b_from_a[..., :3, :3] = rotation_t
    b_from_a[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation_t, a_from_b[..., :3, 3])
    b_from_a[..., 3, 3] = 1.0
    return b_from_a


def transform_points(a_from_b: np.ndarray, points_b: np.ndarray) -> np.ndarray:
    """(P, 3) points of frame b -> (P, 3) in frame a."""
    return points_b @ a_from_b[:3, :3].T + a_from_b[:3, 3]


def rotation_from_yaw(yaw: float) -> np.ndarray:
    """(3, 3), right-handed about +z, radians."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def rotation_from_quaternion(wxyz: np.ndarray) -> np.ndarray:
    """(4,) w x y z -> (3, 3). Raises ValueError on a zero or non-finite quaternion (an unset ROS message)."""
    q = np.asarray(wxyz, dtype=np.float64)
    norm = np.linalg.norm(q)
    if not np.isfinite(norm) or norm < 1e-6:
        raise ValueError(f"quaternion (w x y z) must be finite and not zero, found {q.tolist()}")
    w, x, y, z = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: np.ndarray) -> np.ndarray:
    """(3, 3) -> (4,) w x y z with w >= 0. Takes the largest component first (Shepperd), stable for every angle."""
    m = rotation
    squares = np.array(
        [
            1 + m[0, 0] + m[1, 1] + m[2, 2],
            1 + m[0, 0] - m[1, 1] - m[2, 2],
            1 - m[0, 0] + m[1, 1] - m[2, 2],
            1 - m[0, 0] - m[1, 1] + m[2, 2],
        ]
    )
    largest = int(np.argmax(squares))
    r = np.sqrt(squares[largest])
    s = 0.5 / r
    if largest == 0:
        q = np.array([0.5 * r, (m[2, 1] - m[1, 2]) * s, (m[0, 2] - m[2, 0]) * s, (m[1, 0] - m[0, 1]) * s])
    elif largest == 1:
        q = np.array([(m[2, 1] - m[1, 2]) * s, 0.5 * r, (m[0, 1] + m[1, 0]) * s, (m[0, 2] + m[2, 0]) * s])
    elif largest == 2:
        q = np.array([(m[0, 2] - m[2, 0]) * s, (m[0, 1] + m[1, 0]) * s, 0.5 * r, (m[1, 2] + m[2, 1]) * s])
    else:
        q = np.array([(m[1, 0] - m[0, 1]) * s, (m[0, 2] + m[2, 0]) * s, (m[1, 2] + m[2, 1]) * s, 0.5 * r])
    return q if q[0] >= 0 else -q


def slerp(q0: np.ndarray, q1: np.ndarray, fraction: float) -> np.ndarray:
    """Slerp of two (4,) wxyz quaternions along the shorter arc; fraction outside [0, 1] extrapolates."""
    dot = float(np.dot(q0, q1))
    if dot < 0:
        q1, dot = -q1, -dot
    angle = np.arccos(min(dot, 1.0))
    if angle < 1e-6:
        q = q0 + fraction * (q1 - q0)
    else:
        q = (np.sin((1 - fraction) * angle) * q0 + np.sin(fraction * angle) * q1) / np.sin(angle)
    return q / np.linalg.norm(q)


def interpolate_pose(a_from_b0: np.ndarray, a_from_b1: np.ndarray, fraction: float) -> np.ndarray:
    """Pose between two (4, 4) poses: linear in translation, slerp in rotation; fraction outside [0, 1] extrapolates."""
    q = slerp(quaternion_from_rotation(a_from_b0[:3, :3]), quaternion_from_rotation(a_from_b1[:3, :3]), fraction)
    translation = (1 - fraction) * a_from_b0[:3, 3] + fraction * a_from_b1[:3, 3]
    return make_transform(rotation_from_quaternion(q), translation)


def project(img_from_ego: np.ndarray, points_ego: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(4, 4) and (P, 3) -> pixels (P, 2) and depth (P,) along the optical axis, metres.

    Pixels are only meaningful where depth > 0; nothing is divided by a depth below 1 mm.
    """
    points = transform_points(img_from_ego, points_ego)
    depth = points[:, 2]
    return points[:, :2] / np.maximum(depth, 1e-3)[:, None], depth


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """(M, 7) x y z l w h yaw (gravity centre) -> (M, 8, 3): corners 0-3 bottom, 4-7 top, 0 and 1 in front."""
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 7)
    unit = np.array(
        [[1, 1, -1], [1, -1, -1], [-1, -1, -1], [-1, 1, -1], [1, 1, 1], [1, -1, 1], [-1, -1, 1], [-1, 1, 1]]
    )
    local = 0.5 * unit[None] * boxes[:, None, 3:6]
    c, s = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    x = c * local[..., 0] - s * local[..., 1]
    y = s * local[..., 0] + c * local[..., 1]
    return np.stack([x, y, local[..., 2]], axis=-1) + boxes[:, None, :3]


def points_in_box(points: np.ndarray, box: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """(P, 3+) points and a (7,) box of the same frame -> (P,) bool, the box grown by `margin` metres on every side."""
    local = (points[:, :3] - box[:3]) @ rotation_from_yaw(box[6])
    return np.all(np.abs(local) <= box[3:6] / 2 + margin, axis=1)


def transform_boxes(a_from_b: np.ndarray, boxes_b: np.ndarray) -> np.ndarray:
    """(M, 7) boxes of frame b -> frame a; the heading follows the rotation, roll and pitch do not fit in a box."""
    boxes = np.array(boxes_b, dtype=np.float64).reshape(-1, 7)
    heading = np.stack([np.cos(boxes[:, 6]), np.sin(boxes[:, 6]), np.zeros(len(boxes))], axis=1) @ a_from_b[:3, :3].T
    boxes[:, :3] = transform_points(a_from_b, boxes[:, :3])
    x, y = np.ascontiguousarray(heading[:, :2].T)  # of strided columns numpy's arctan2 depends on where they lie
    boxes[:, 6] = np.arctan2(y, x)
    return boxes
