"""camera_info that says what no camera can have."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bev_perception.ros.car import Change, Sending
from bev_perception.ros.fault_table.fault import (
    CAMERA,
    INFO,
    INVALID,
    Fault,
    camera,
    edited,
    setting,
)


def focal(value: float) -> Callable[[Any], None]:
    def edit(message: Any) -> None:
        k = np.array(message.k)
        k[[0, 4]] = value
        message.k = k

    return edit


def moved_centre(pixels_right: float) -> Callable[[Any], None]:
    def edit(message: Any) -> None:
        k = np.array(message.k)
        k[2] += pixels_right
        message.k = k

    return edit


def jitter() -> Change:
    rng = np.random.default_rng(2)

    def change(s: Sending) -> Iterable[Sending]:
        if not INFO(s):
            return (s,)
        message = copy.deepcopy(s.message)
        message.k = np.array(message.k) + rng.normal(0, 1e-3, 9) * np.array([1, 0, 1, 0, 1, 1, 0, 0, 0])
        return (Sending(s.kind, s.sensor, message, s.stamp_ns),)

    return change


CALIBRATION: tuple[Fault, ...] = (
    Fault("K is zero", edited(INFO, focal(0.0)), camera(INVALID, "no_calibration: camera_info_matrix")),
    Fault(
        "K is not a number", edited(INFO, focal(float("nan"))), camera(INVALID, "no_calibration: camera_info_matrix")
    ),
    Fault("a focal length in millimetres", edited(INFO, focal(4.0)), camera(INVALID, "no_calibration")),
    Fault("a principal point outside the image", edited(INFO, moved_centre(400.0)), camera(INVALID, "no_calibration")),
    Fault(
        "D is not a number",
        edited(INFO, setting(d=[float("nan")] * 5)),
        camera(INVALID, "no_calibration: camera_info_distortion"),
    ),
    Fault(
        "plumb_bob with 3 coefficients",
        edited(INFO, setting(d=[0.1, 0.2, 0.3])),
        camera(INVALID, "no_calibration: camera_info_distortion"),
    ),
    Fault(
        "rational_polynomial with 7 coefficients",
        edited(INFO, setting(distortion_model="rational_polynomial", d=[0.1] * 7)),
        camera(INVALID, "no_calibration: camera_info_distortion"),
    ),
    Fault(
        "equidistant with 2 coefficients",
        edited(INFO, setting(distortion_model="equidistant", d=[0.1] * 2)),
        camera(INVALID, "no_calibration: camera_info_distortion"),
    ),
    Fault(
        "a distortion model nobody knows",
        edited(INFO, setting(distortion_model="barrel", d=[0.1] * 5)),
        camera(INVALID, "no_calibration: camera_info_distortion"),
    ),
    Fault(
        "a region of interest beyond the sensor",
        edited(INFO, setting(roi__x_offset=300, roi__width=352, roi__height=198)),
        camera(INVALID, "no_calibration: camera_info_roi"),
    ),
    Fault(
        "camera_info of another size",
        edited(INFO, setting(width=640, height=480)),
        camera(INVALID, "image_size_differs"),
    ),
    Fault(
        "camera_info of 0 x 0",
        edited(INFO, setting(width=0, height=0)),
        camera(INVALID, "no_calibration: camera_info_size"),
    ),
    Fault(
        "camera_info of another camera",
        edited(INFO, setting(header__frame_id="cam_back")),
        camera(INVALID, "no_calibration"),
    ),
    Fault(
        "the lens is turned by 3 pixels; it is used",
        edited(INFO, moved_centre(3.0)),
        counter=f"{CAMERA}/calibration_changed",
    ),
    Fault("K jitters by 0.001 pixels; nothing happens", lambda: jitter()),
)
