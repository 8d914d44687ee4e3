"""Annotated objects in the images: 2D boxes, crops, and what a box looks like when it is moved along its ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bev_perception.geometry import box_corners, transform_points
from training.data.nuscenes import SensorFile

Floats = NDArray[np.float64]
Array = TypeVar("Array", Floats, Tensor)

NEAREST_M = 0.5  # depth of the nearest corner: an object beside the camera's plane has no 2D box
WHOLE = 0.9  # of a 2D box inside the image: what is cut further has lost its size
LEAST_PX = 2.0  # sides of a 2D box


@dataclass(frozen=True)
class Views:
    """N objects in one image. rows (N,) into what was projected; boxes (N, 4) left, top, right, bottom in pixels,
    clipped to the image, with its edges half a pixel around the outer pixel centres."""

    rows: NDArray[np.int64]
    boxes: Floats


def corners_in_camera(boxes: Floats, cam_from_ego: Floats) -> Floats:
    """(M, 7) boxes of the ego frame -> (M, 8, 3) corners in the camera's, m."""
    return transform_points(cam_from_ego, box_corners(boxes).reshape(-1, 3)).reshape(-1, 8, 3)


def image_boxes(corners: Floats, K: Floats) -> Floats:
    """(M, 8, 3) corners in the camera -> (M, 4) left, top, right, bottom, px; NaN where one is not before it."""
    pixels = corners @ K.T
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = pixels[..., :2] / pixels[..., 2:]
    boxes = np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)
    boxes[corners[..., 2].min(axis=1, initial=np.inf) < NEAREST_M] = np.nan
    return boxes


def views(boxes: Floats, cam_from_ego: Floats, file: SensorFile) -> Views:
    """What an annotator of images gives of (M, 7) boxes: the 2D boxes of those that are whole in the image. That
    something stands before an object does not change its 2D box. Raises ValueError for a file without a lens."""
    if file.K is None:
        raise ValueError(f"{file.path} has no camera_intrinsic in calibrated_sensor.json; take it from its data sheet")
    flat = image_boxes(corners_in_camera(boxes, cam_from_ego), file.K)
    limits = np.array([file.width, file.height] * 2) - 0.5
    clipped = np.clip(flat, -0.5, limits)
    sides, whole = clipped[:, 2:] - clipped[:, :2], flat[:, 2:] - flat[:, :2]
    with np.errstate(invalid="ignore"):
        kept = (sides >= LEAST_PX).all(axis=1) & (sides.prod(axis=1) >= WHOLE * whole.prod(axis=1))
    rows = np.flatnonzero(kept)
    return Views(rows, clipped[rows])


def crop(image: NDArray[np.uint8], box: Floats, side: int) -> NDArray[np.uint8]:
    """(H, W, 3) and left, top, right, bottom in pixels -> (side, side, 3): what is in the box, stretched."""
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(box[:2] + 0.5), 0, [width - 1, height - 1]).astype(int)
    right, bottom = np.clip(np.ceil(box[2:] + 0.5), [left + 1, top + 1], [width, height]).astype(int)
    part = image[top:bottom, left:right]
    finer = part.shape[0] < side or part.shape[1] < side
    how = cv2.INTER_LINEAR if finer else cv2.INTER_AREA
    return np.asarray(cv2.resize(part, (side, side), interpolation=how), dtype=np.uint8)


def read_image(path: str) -> NDArray[np.uint8]:
    """(H, W, 3) BGR. Raises ValueError naming a file that is no image or is not there."""
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: no image that can be read; copy or unpack the file again")
    return np.asarray(image, dtype=np.uint8)


def angles(boxes: Floats, K: Floats) -> Floats:
    """(N, 4) 2D boxes -> (N, 2) width and height over the focal lengths: what no lens changes."""
    return (boxes[:, 2:] - boxes[:, :2]) / np.array([K[0, 0], K[1, 1]])


def spans(corners: Tensor) -> Tensor:
    """(..., 8, 3) corners in the camera -> (..., 2): `angles` of what they project to."""
    flat = corners[..., :2] / corners[..., 2:]
    return flat.amax(dim=-2) - flat.amin(dim=-2)


def moved(corners: Array, centre: Array, depth: Array) -> Array:
    """(..., 8, 3) corners and (..., 3) centre in the camera -> the corners of the same object farther along its ray,
    with its centre at (...) depth. It does not turn: its yaw relative to the ray stays (LR3D's projection
    augmentation)."""
    steps = centre * (depth / centre[..., 2] - 1)[..., None]
    return corners + steps[..., None, :]


def bearing(rays: Floats) -> Floats:
    """(N, 3) directions in the ego frame -> (N,) their azimuth, rad from x."""
    return np.arctan2(rays[:, 1], rays[:, 0])


def rays(boxes: Floats, K: Floats, cam_from_ego: Floats) -> tuple[Floats, Floats]:
    """(N, 4) 2D boxes -> the rays through their middles, of depth 1: (N, 3) in the camera, (N, 3) turned as the ego
    frame is."""
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    in_camera = np.column_stack([middles, np.ones(len(boxes))]) @ np.linalg.inv(K).T
    return in_camera, in_camera @ cam_from_ego[:3, :3]
