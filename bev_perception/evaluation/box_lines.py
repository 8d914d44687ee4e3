"""Edges of boxes as lines in the image as it was received, with its lens, cut at its border."""

from __future__ import annotations

import cv2
import numpy as np

from bev_perception.evaluation.draw import EDGES, NEAR_M, clip_segments
from bev_perception.evaluation.objects import Objects
from bev_perception.geometry import box_corners, invert, transform_points
from bev_perception.preprocess.undistort import DISTORTION_MODELS, fold, is_distorted
from bev_perception.structures import CameraCalibration, CameraView, SensorFrame

PIECES = 16  # of an edge, where a lens bends it
FOLD_MARGIN = 0.98  # of the slope from which on a model shows mirrored pixels
STEEPEST = 4.0  # slope against the axis (76 degrees) beyond which nothing is drawn through a lens that bends


def box_lines(objects: Objects, view: CameraView, frame: SensorFrame) -> list[np.ndarray]:
    """For each of the objects (ego frame, at the frame's stamp) its visible edges (S, 2, 2): two ends (u, v) in pixels
    of the received image, centres at integers; S is 0 where nothing of it is seen. Box, vehicle and camera are where
    they were when the image was taken."""
    late_s = (view.frame.stamp_ns - frame.stamp_ns) * 1e-9
    then_from_now = invert(view.ego.odom_from_ego) @ frame.ego.odom_from_ego
    corners = box_corners(objects.later(late_s).boxes)
    ends = transform_points(view.calibration.cam_from_ego @ then_from_now, corners.reshape(-1, 3)).reshape(-1, 8, 3)
    edges = ends[:, np.array(EDGES)].reshape(-1, 2, 3)
    lines, of_edge = lines_in_image(edges, view.calibration)
    return [lines[of_edge // len(EDGES) == k] for k in range(len(objects))]


def lines_in_image(edges: np.ndarray, calibration: CameraCalibration) -> tuple[np.ndarray, np.ndarray]:
    """(E, 2, 3) ends of straight lines in the camera's frame, metres -> (S, 2, 2) pixels of what the camera sees of
    them, and (S,) which edge each is a part of."""
    number = np.broadcast_to(np.arange(len(edges))[:, None, None], (len(edges), 2, 1))
    ends = np.concatenate([edges, number], axis=-1)  # cuts change all columns alike, and this one not at all
    starts, stops = clip_segments(ends[:, 0], ends[:, 1], NEAR_M)
    if is_distorted(calibration):
        starts, stops = _pieces(starts, stops, calibration)
    lines = np.stack([_pixels(starts[:, :3], calibration), _pixels(stops[:, :3], calibration)], axis=1)
    return clip_to_image(lines, starts[:, 3], calibration.width, calibration.height)


def _pieces(starts: np.ndarray, stops: np.ndarray, calibration: CameraCalibration) -> tuple[np.ndarray, np.ndarray]:
    """(S, 4) ends before the camera, whose last column stays -> short pieces of them, as far as the lens's model says
    where they are seen."""
    limit = min(FOLD_MARGIN * fold(calibration.distortion_model, tuple(calibration.D)), STEEPEST)
    for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):  # to a pyramid first, so that pieces are short
        starts, stops = (np.insert(ends, 2, limit * ends[:, 2] + sign * ends[:, axis], 1) for ends in (starts, stops))
        starts, stops = (np.delete(ends, 2, 1) for ends in clip_segments(starts, stops, 0.0))
    share = np.linspace(0.0, 1.0, PIECES + 1)[:, None]  # of the way in a straight image
    along = share * starts[:, 2] / (stops[:, 2] + share * (starts[:, 2] - stops[:, 2]))
    chain = starts + along[..., None] * (stops - starts)  # (PIECES + 1, S, 4)
    starts, stops = chain[:-1].reshape(-1, 4), chain[1:].reshape(-1, 4)
    known = (_slope(starts) < limit) & (_slope(stops) < limit)
    return starts[known], stops[known]


def clip_to_image(lines: np.ndarray, number: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """(S, 2, 2) pixels and (S,) numbers -> the parts of the lines in an image whose first pixel's corner is
    (-0.5, -0.5), and their numbers."""
    for axis, sign, limit in ((0, 1, -0.5), (0, -1, 0.5 - width), (1, 1, -0.5), (1, -1, 0.5 - height)):
        inside = sign * lines[..., axis] - limit  # what must not be negative: cut as at the near plane
        ends = np.dstack([lines, inside, np.stack([number, number], axis=1)])
        starts, stops = clip_segments(ends[:, 0], ends[:, 1], 0.0)
        lines, number = np.stack([starts[:, :2], stops[:, :2]], axis=1), starts[:, 3]
    return lines, np.round(number).astype(np.int64)


def _slope(points: np.ndarray) -> np.ndarray:
    """Of rays to (P, 3) points before the camera, against its axis."""
    slope: np.ndarray = np.hypot(points[:, 0], points[:, 1]) / points[:, 2]
    return slope


def _pixels(points: np.ndarray, calibration: CameraCalibration) -> np.ndarray:
    """(P, 3) points before the camera -> (P, 2) as the lens shows them."""
    K = np.asarray(calibration.K, dtype=np.float64)
    if not len(points) or not is_distorted(calibration):
        homogeneous = points @ K.T
        return homogeneous[:, :2] / homogeneous[:, 2:]
    zero, D = np.zeros(3), np.array(calibration.D)
    if DISTORTION_MODELS[calibration.distortion_model].fisheye:
        pixels, _ = cv2.fisheye.projectPoints(points[:, None], zero, zero, K, D)
    else:
        pixels, _ = cv2.projectPoints(points[:, None], zero, zero, K, D)
    return np.asarray(pixels, dtype=np.float64).reshape(-1, 2)
