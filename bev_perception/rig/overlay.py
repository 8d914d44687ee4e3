"""What the calibration says lies where in an image: horizon, ground, radar returns, LiDAR points. OpenCV only."""

from __future__ import annotations

import cv2
import numpy as np

from bev_perception.evaluation.draw import clip_segments
from bev_perception.geometry import project, transform_points

# BGR
HORIZON, GROUND, MOVING = (0, 255, 255), (120, 220, 120), (255, 60, 255)
NEAR_M = 0.3
GRID_M, GRID_STEP_M = 50.0, 10.0
RETURN_HEIGHT_M = 1.5  # a radar says little of heights: a return is drawn as a pole from the ground
FARTHEST_M = 60.0
MOVING_MPS = 1.0


def draw_horizon(image: np.ndarray, img_from_ego: np.ndarray) -> None:
    """The line where all level directions meet, into (H, W, 3) in place."""
    angles = np.radians(np.arange(0, 361, 2))
    level = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1) @ img_from_ego[:3, :3].T
    _segments(image, level[:-1], level[1:], HORIZON, 0.05)


def draw_ground(image: np.ndarray, img_from_ego: np.ndarray) -> None:
    """Lines on the ground every ten metres, along the vehicle and across it."""
    lines = np.arange(-GRID_M, GRID_M + 1, GRID_STEP_M)
    along = np.arange(-GRID_M, GRID_M, 2.0)
    for line in lines:
        for swap in (False, True):
            a = np.stack([along, np.full_like(along, line), np.zeros_like(along)], axis=1)
            b = a + [2.0, 0.0, 0.0]
            if swap:
                a, b = a[:, [1, 0, 2]], b[:, [1, 0, 2]]
            _segments(image, transform_points(img_from_ego, a), transform_points(img_from_ego, b), GROUND, NEAR_M)


def _segments(image: np.ndarray, a: np.ndarray, b: np.ndarray, color: tuple[int, int, int], near: float) -> None:
    """(S, 3) ends (u * depth, v * depth, depth), as far as they are in front of the camera."""
    limit = 4 * max(image.shape)
    starts, ends = clip_segments(a, b, near)
    for (u0, v0, d0), (u1, v1, d1) in zip(starts, ends):
        p, q = (u0 / d0, v0 / d0), (u1 / d1, v1 / d1)
        if max(map(abs, (*p, *q))) < limit:
            cv2.line(image, (round(p[0]), round(p[1])), (round(q[0]), round(q[1])), color, 1, cv2.LINE_AA)


def draw_returns(image: np.ndarray, img_from_ego: np.ndarray, points: np.ndarray, moving: np.ndarray) -> None:
    """Radar returns (P, 3) in the vehicle's frame as poles; near ones red, far ones blue, moving (P,) ones magenta."""
    colors = _colors(np.hypot(points[:, 0], points[:, 1])).tolist()
    for (x, y, _), near_or_far, moves in zip(points, colors, moving):
        ends, depth = project(img_from_ego, np.array([[x, y, 0.0], [x, y, RETURN_HEIGHT_M]]))
        if depth.min() < NEAR_M or np.abs(ends).max() > 4 * max(image.shape):
            continue
        color = MOVING if moves else near_or_far
        (u0, v0), (u1, v1) = np.round(ends).astype(int)
        cv2.line(image, (u0, v0), (u1, v1), color, 1, cv2.LINE_AA)
        cv2.circle(image, (u0, v0), 3, color, -1, cv2.LINE_AA)


def draw_points(image: np.ndarray, img_from_ego: np.ndarray, points: np.ndarray) -> None:
    """LiDAR points (P, 3) in the vehicle's frame as dots of their distance's colour."""
    pixels, depth = project(img_from_ego, points)
    height, width = image.shape[:2]
    inside = (depth > NEAR_M) & (pixels >= 0).all(axis=1) & (pixels < [width - 1, height - 1]).all(axis=1)
    columns, rows = np.round(pixels[inside]).astype(int).T
    image[rows, columns] = _colors(depth[inside])


def _colors(distances_m: np.ndarray) -> np.ndarray:
    """(P,) -> (P, 3) BGR, red near and blue far."""
    if not len(distances_m):
        return np.empty((0, 3), np.uint8)
    levels = np.round(255 * (1 - np.clip(distances_m / FARTHEST_M, 0, 1))).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(levels[:, None], cv2.COLORMAP_JET)).reshape(-1, 3)
