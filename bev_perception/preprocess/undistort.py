"""Lens undistortion, resize and crop in one remap, with the map computed once per calibration."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from bev_perception.model_spec import ImageSpec
from bev_perception.structures import CameraCalibration

PINHOLE_MODELS = ("plumb_bob", "rational_polynomial")
FISHEYE_MODELS = ("equidistant", "fisheye")


def is_distorted(calibration: CameraCalibration) -> bool:
    """True when the calibration bends straight lines."""
    return any(d != 0 for d in calibration.D)


def undistort_resize_crop(
    image: np.ndarray, calibration: CameraCalibration, spec: ImageSpec, img_from_cam: np.ndarray
) -> np.ndarray:
    """(h, w, 3) BGR of the distorted camera -> (H, W, 3) as the pinhole camera `img_from_cam` would see it; 0 outside.

    `image` should be reduced by whole blocks to two or three times the target's width: the remap looks at 2x2 pixels
    only and would alias on a larger one. Raises ValueError on an unknown distortion model.
    """
    map_u, map_v = _maps(
        calibration.distortion_model,
        calibration.D,
        tuple(np.asarray(calibration.K, dtype=np.float64).ravel()),
        tuple(img_from_cam[:3, :3].ravel()),
        (spec.width, spec.height),
        image.shape[1] / calibration.width,
        image.shape[0] / calibration.height,
    )
    return cv2.remap(image, map_u, map_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


@lru_cache(maxsize=32)
def _maps(
    model: str,
    D: tuple[float, ...],
    K: tuple[float, ...],
    target_K: tuple[float, ...],
    target_size: tuple[int, int],
    scale_x: float,
    scale_y: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Fixed-point maps for cv2.remap: target pixel -> pixel of the source scaled by (scale_x, scale_y)."""
    source, target = np.reshape(K, (3, 3)), np.reshape(target_K, (3, 3))
    if model in PINHOLE_MODELS:
        u, v = cv2.initUndistortRectifyMap(source, np.array(D), np.eye(3), target, target_size, cv2.CV_32FC1)
    elif model in FISHEYE_MODELS:
        u, v = cv2.fisheye.initUndistortRectifyMap(source, np.array(D[:4]), np.eye(3), target, target_size, cv2.CV_32FC1)
    else:
        raise ValueError(f"distortion model {model!r} is unknown; known are {PINHOLE_MODELS + FISHEYE_MODELS}")
    return cv2.convertMaps((u + 0.5) * scale_x - 0.5, (v + 0.5) * scale_y - 0.5, cv2.CV_16SC2)
