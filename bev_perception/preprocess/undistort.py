"""Lens undistortion, resize and crop in one remap, with the map computed once per calibration."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.polynomial import Polynomial

from bev_perception.structures import CameraCalibration

NOWHERE = -1000.0  # a pixel of the source that there is not


@dataclass(frozen=True)
class DistortionModel:
    """fisheye: which of OpenCV's two models. lengths: how many coefficients there may be."""

    fisheye: bool
    lengths: tuple[int, ...]


# By the names of sensor_msgs/distortion_models; `rational_polynomial` with 12 or 14 has OpenCV's thin prism and tilt.
DISTORTION_MODELS = {
    "plumb_bob": DistortionModel(False, (4, 5)),
    "rational_polynomial": DistortionModel(False, (8, 12, 14)),
    "equidistant": DistortionModel(True, (4,)),
    "fisheye": DistortionModel(True, (4,)),
}


def is_distorted(calibration: CameraCalibration) -> bool:
    """True when the calibration bends straight lines."""
    return any(d != 0 for d in calibration.D)


def undistort(
    image: np.ndarray, calibration: CameraCalibration, img_from_cam: np.ndarray, size: tuple[int, int], samples: int
) -> np.ndarray:
    """(h, w, 3) of the distorted camera, possibly reduced -> what the pinhole camera `img_from_cam` (4, 4) would see.

    size: (width, height) of the pinhole image. The answer holds samples x samples bilinear samples for each of its
    pixels, (samples * height, samples * width, 3), to be averaged; 0 where the camera does not look, and where the
    model folds back on itself and would show a mirrored image.
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
    make = cv2.fisheye.initUndistortRectifyMap if DISTORTION_MODELS[model].fisheye else cv2.initUndistortRectifyMap
    u, v = make(source, np.array(D), np.eye(3), sampled, sampled_size, cv2.CV_32FC1)
    columns, rows = np.arange(sampled_size[0]), np.arange(sampled_size[1])[:, None]
    slope = np.hypot((columns - sampled[0, 2]) / sampled[0, 0], (rows - sampled[1, 2]) / sampled[1, 1])
    folded = (slope >= fold(model, D)) | _mirrored(u, v) | ~np.isfinite(u) | ~np.isfinite(v)
    u, v = ((np.where(folded, NOWHERE, m) + 0.5) * s - 0.5 for m, s in ((u, scale_x), (v, scale_y)))
    return cv2.convertMaps(u.astype(np.float32), v.astype(np.float32), cv2.CV_16SC2)


def fold(model: str, D: tuple[float, ...]) -> float:
    """Slope x / z of the rays from which on the radial part of the model no longer moves outwards; inf if it always
    does. Beyond, two rays share a pixel, and the calibration says nothing of the second.

    D: OpenCV's order, k1 k2 p1 p2 [k3 [k4 k5 k6 ...]], or k1 k2 k3 k4 of the fisheye model.
    """
    if DISTORTION_MODELS[model].fisheye:
        # theta (1 + k1 theta^2 + ...) with the derivative 1 + 3 k1 theta^2 + ...
        angle = np.sqrt(_first_root(Polynomial([1, *(k * (2 * i + 3) for i, k in enumerate(D))])))
        return float(np.tan(angle)) if angle < np.pi / 2 else np.inf
    k = [*D[:2], *D[4:8]] + [0.0] * 4
    square = Polynomial([0, 1])
    above, below = Polynomial([1, *k[:3]]), Polynomial([1, *k[3:6]])
    # r above / below, whose derivative has the sign of this while `below` has no root
    rising = above * below + 2 * square * (above.deriv() * below - above * below.deriv())
    return float(np.sqrt(min(_first_root(rising), _first_root(below))))


def _first_root(polynomial: Polynomial) -> float:
    """The smallest positive real root, inf without one."""
    roots = polynomial.roots()
    real = roots[np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots))].real
    return float(min(real[real > 0], default=np.inf))


def _mirrored(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Where the map turns the image over: tangential and tilt terms fold it, too."""
    with np.errstate(all="ignore"):
        u_down, u_right = np.gradient(u.astype(np.float64))
        v_down, v_right = np.gradient(v.astype(np.float64))
        turned: np.ndarray = u_right * v_down - u_down * v_right <= 0
    return turned
