"""sensor_msgs/CameraInfo -> CameraCalibration, after the questions that a wrong calibration answers wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np

from bev_perception.conversions import MessageError
from bev_perception.preprocess.undistort import DISTORTION_MODELS
from bev_perception.structures import DISTORTION_TOLERANCE, CameraCalibration

PINHOLE_DEGREES = (2.0, 170.0)  # fields of view that a pinhole image can have and a camera of a vehicle may
FISHEYE_DEGREES = (2.0, 360.0)
OFF_CENTRE, AT_CENTRE = 0.1, 0.05  # of the image's size: K's centre is beside it, or in it
BASELINE_M = 1e-3
ROTATION_TOLERANCE = 1e-3


def to_calibration(msg: Any, ego_from_cam: np.ndarray, rectified: bool = False) -> CameraCalibration:
    """sensor_msgs/CameraInfo -> CameraCalibration of the image as delivered (binning and region of interest applied).

    ego_from_cam: (4, 4) of the frame in the header, before rectification.
    rectified: the image went through image_proc: P holds its K, R turned the camera, and there is no distortion.
    Raises MessageError: camera_info_size, camera_info_roi, camera_info_matrix, camera_info_principal_point,
    camera_info_field_of_view, camera_info_distortion, camera_info_rectification, camera_info_baseline.
    """
    width, height = int(msg.width), int(msg.height)
    if width <= 0 or height <= 0:
        raise MessageError("camera_info_size", f"{width}x{height}; calibrate the camera")
    name = "P" if rectified else "K"
    K = np.array(msg.p if rectified else msg.k, dtype=np.float64).reshape(3, -1)[:, :3]
    model, D = ("", ()) if rectified else _distortion(msg)
    fisheye = bool(model) and DISTORTION_MODELS[model].fisheye
    _check_matrix(K, name, width, height, FISHEYE_DEGREES if fisheye else PINHOLE_DEGREES, fisheye)
    if rectified:
        _check_baseline(np.array(msg.p, dtype=np.float64).reshape(3, 4))
        ego_from_cam = ego_from_cam @ _cam_from_rectified(msg.r)
    roi = msg.roi
    if _has_region(roi, width, height):
        K = K - np.array([[0, 0, roi.x_offset], [0, 0, roi.y_offset], [0, 0, 0]])
        width, height = int(roi.width), int(roi.height)
    bx, by = max(msg.binning_x, 1), max(msg.binning_y, 1)
    if (bx, by) != (1, 1):
        # pixel centres at integers: u' = (u + 0.5) / b - 0.5
        K = np.array([[1 / bx, 0, 0.5 / bx - 0.5], [0, 1 / by, 0.5 / by - 0.5], [0, 0, 1]]) @ K
        if bx > width or by > height:
            raise MessageError("camera_info_size", f"binning {bx}x{by} leaves nothing of {width}x{height} pixels")
        width, height = width // bx, height // by
    return CameraCalibration(width, height, K, ego_from_cam, model, D)


def _has_region(roi: Any, width: int, height: int) -> bool:
    """Whether a region of interest is delivered; all zeros mean the whole sensor. Raises camera_info_roi."""
    x, y, w, h = int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)
    if not (x or y or w or h):
        return False
    if not w or not h or x + w > width or y + h > height:
        found = f"a region of {w}x{h} pixels at ({x}, {y})"
        expected = f"one within the {width}x{height} of the sensor, or zeros for all of it"
        raise MessageError("camera_info_roi", f"{found}; expected {expected}: mend the driver")
    return True


def _distortion(msg: Any) -> tuple[str, tuple[float, ...]]:
    """(model, coefficients); ("", ()) where nothing is bent, whatever the model and its number of zeros."""
    D = tuple(float(x) for x in msg.d)
    if not np.isfinite(D).all():
        raise MessageError("camera_info_distortion", f"D = {D} is not finite")
    if np.abs(D).max(initial=0.0) <= DISTORTION_TOLERANCE:
        return "", ()
    model = msg.distortion_model
    if model not in DISTORTION_MODELS:
        known = ", ".join(DISTORTION_MODELS)
        raise MessageError("camera_info_distortion", f"distortion model {model!r} with a D; known are {known}")
    lengths = DISTORTION_MODELS[model].lengths
    if len(D) not in lengths:
        expected = " or ".join(map(str, lengths))
        raise MessageError("camera_info_distortion", f"{model} with {len(D)} coefficients; {expected} expected")
    return model, D


def _check_matrix(
    K: np.ndarray, name: str, width: int, height: int, degrees: tuple[float, float], fisheye: bool
) -> None:
    found = f"{name} = {K.round(3).tolist()}"
    if not np.isfinite(K).all() or K[0, 0] <= 0 or K[1, 1] <= 0 or not np.allclose(K[2], (0, 0, 1)):
        raise MessageError("camera_info_matrix", f"{found} is no pinhole matrix; calibrate the camera")
    if K[0, 1] or K[1, 0]:
        raise MessageError("camera_info_matrix", f"{found} is skewed, which sensor_msgs/CameraInfo does not know")
    focal, centre, size = K[[0, 1], [0, 1]], K[:2, 2], np.array([width, height])
    if (np.abs(centre / size - 0.5) > OFF_CENTRE).any() and (np.abs(centre / size[::-1] - 0.5) < AT_CENTRE).all():
        swapped = f"the centre of a {height}x{width} image, but the image is {width}x{height}"
        raise MessageError("camera_info_size", f"{found} has {swapped}; width and height are swapped")
    if (centre < -0.5).any() or (centre > size - 0.5).any():
        outside = f"its principal point {centre.round(1).tolist()} outside the image of {width}x{height}"
        raise MessageError("camera_info_principal_point", f"{found} has {outside}; calibrate the camera")
    views = np.degrees(size / focal if fisheye else 2 * np.arctan(size / (2 * focal)))
    if views.min() < degrees[0] or views.max() > degrees[1]:
        view = f"a field of view of {views[0]:.1f} x {views[1]:.1f} degrees at {width}x{height}"
        expected = f"{degrees[0]:g} to {degrees[1]:g} expected; focal lengths are in pixels, not in millimetres"
        raise MessageError("camera_info_field_of_view", f"{found} means {view}; {expected}")


def _check_baseline(P: np.ndarray) -> None:
    baseline = P[:2, 3] / P[[0, 1], [0, 1]]
    if not np.isfinite(P[:, 3]).all() or np.abs(baseline).max() > BASELINE_M or P[2, 3] != 0:
        raise MessageError(
            "camera_info_baseline",
            f"P has the fourth column {P[:, 3].tolist()}, a baseline of {-baseline.round(4)} m from the first camera of"
            " a stereo pair. Drivers differ in whether tf has it too, so it is not used: publish P without it and the"
            " transform of this camera itself, or take the image before rectification",
        )


def _cam_from_rectified(r: Any) -> np.ndarray:
    """(4, 4) from CameraInfo.R, which is rectified_from_cam."""
    R = np.array(r, dtype=np.float64).reshape(3, 3)
    if not np.allclose(R @ R.T, np.eye(3), rtol=0, atol=ROTATION_TOLERANCE) or np.linalg.det(R) < 0:
        found = f"R = {R.round(4).tolist()} is no rotation"
        raise MessageError("camera_info_rectification", f"{found}; an image that was not turned has the identity")
    matrix = np.eye(4)
    matrix[:3, :3] = R.T
    return matrix
