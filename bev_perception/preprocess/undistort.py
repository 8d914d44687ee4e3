"""Lens undistortion, resize and crop in one remap, with the map computed once per calibration."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from bev_perception.structures import CameraCalibration

# sensor_msgs/distortion_models names -> whether it is a fisheye model.
DISTORTION_MODELS = {"plumb_bob": False, "rational_polynomial": False, "equidistant": True, "fisheye": True}


def is_distorted(calibration: CameraCalibration) -> bool:
    """True when the calibration bends straight lines."""
    return any(d != 0 for d in calibration.D)


def undistort(
    image: np.ndarray, calibration: CameraCalibration, img_from_cam: np.ndarray, size: tuple[int, int], samples: int
) -> np.ndarray:
    """(h, w, 3) of the distorted camera, possibly reduced -> what the pinhole camera `img_from_cam` (4, 4) would see.

    size: (width, height) of the pinhole image. The answer holds samples x samples bilinear samples for each of its
    pixels, (samples * height, samples * width, 3), to be averaged; 0 where the camera does not look.
    """
    map_u, map_v = _maps(
        calibration.distortion_model,
        tuple(calibration.D),
        tuple(np.asarray(calibration.K, dtype=np.float64).ravel()),
        tuple(img_from_cam[:3, :3].ravel()),
        (samples * size[0], samples * size[1]),
        samples,
        image.shape[1] / calibration.width,
        image.shape[0] / calibration.height,
    )
    return cv2.remap(image, map_u, map_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0))


@lru_cache(maxsize=32)
def _maps(
    model: str,
    D: tuple[float, ...],
    K: tuple[float, ...],
    target_K: tuple[float, ...],
    sampled_size: tuple[int, int],
    samples: int,
    scale_x: float,
    scale_y: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Fixed-point maps for cv2.remap: sample of the target -> pixel of the source scaled by (scale_x, scale_y)."""
    source, target = np.reshape(K, (3, 3)), np.reshape(target_K, (3, 3))
    shift = 0.5 * samples - 0.5
    sampled = np.array([[samples, 0, shift], [0, samples, shift], [0, 0, 1]]) @ target
    if DISTORTION_MODELS[model]:
        maps = cv2.fisheye.initUndistortRectifyMap(
            source, np.array(D[:4]), np.eye(3), sampled, sampled_size, cv2.CV_32FC1
        )
    else:
        maps = cv2.initUndistortRectifyMap(source, np.array(D), np.eye(3), sampled, sampled_size, cv2.CV_32FC1)
    return cv2.convertMaps((maps[0] + 0.5) * scale_x - 0.5, (maps[1] + 0.5) * scale_y - 0.5, cv2.CV_16SC2)
