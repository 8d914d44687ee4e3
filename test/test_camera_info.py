"""camera_info -> calibration: what is applied, and every wrong one by its name."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from bev_perception.conversions import MessageError
from bev_perception.sensors.camera_info import to_calibration
from bev_perception.structures import CameraCalibration, same_calibration


def region(x: int, y: int, width: int, height: int) -> SimpleNamespace:
    return SimpleNamespace(x_offset=x, y_offset=y, width=width, height=height)


def camera_info(**change: object) -> SimpleNamespace:
    K = [1000.0, 0, 799.5, 0, 1100.0, 449.5, 0, 0, 1]
    P = [900.0, 0, 790.0, 0, 0, 950.0, 440.0, 0, 0, 0, 1, 0]
    R = [1.0, 0, 0, 0, 1, 0, 0, 0, 1]
    roi = region(0, 0, 0, 0)
    values = dict(width=1600, height=900, k=K, p=P, r=R, d=[0.1, -0.05, 0, 0, 0], distortion_model="plumb_bob")
    return SimpleNamespace(**{**values, "binning_x": 0, "binning_y": 0, "roi": roi, **change})


def test_camera_info() -> None:
    pose = np.eye(4)
    plain = to_calibration(camera_info(), pose)
    assert (plain.width, plain.height, plain.distortion_model) == (1600, 900, "plumb_bob")
    assert plain.K[0, 0] == 1000 and plain.D == (0.1, -0.05, 0, 0, 0)
    rectified = to_calibration(camera_info(), pose, rectified=True)
    assert rectified.K.tolist() == [[900, 0, 790], [0, 950, 440], [0, 0, 1]] and rectified.D == ()


def test_binning_and_region_of_interest_move_pixels_as_the_sensor_does() -> None:
    """A 3-D point lands in the binned, cut image where averaging blocks of the full image puts it."""
    roi = region(100, 50, 800, 400)
    cut = to_calibration(camera_info(roi=roi, binning_x=2, binning_y=2), np.eye(4))
    assert (cut.width, cut.height) == (400, 200)
    full = to_calibration(camera_info(), np.eye(4))
    point = np.array([1.0, 0.3, 8.0])
    u, v, w = full.K @ point
    block = (np.array([u / w - 100, v / w - 50]) + 0.5) / 2 - 0.5
    u, v, w = cut.K @ point
    assert np.array([u / w, v / w]) == pytest.approx(block)
    columns = to_calibration(camera_info(binning_x=4), np.eye(4))
    assert (columns.width, columns.height) == (400, 900)
    assert columns.K[:2].ravel() == pytest.approx([250, 0, (799.5 + 0.5) / 4 - 0.5, 0, 1100, 449.5])
    rows = to_calibration(camera_info(binning_y=4), np.eye(4))
    assert (rows.width, rows.height) == (1600, 225)
    assert rows.K[:2].ravel() == pytest.approx([1000, 0, 799.5, 0, 275, (449.5 + 0.5) / 4 - 0.5])


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"binning_x": 5000}, "camera_info_size"),
        ({"binning_y": 901}, "camera_info_size"),
        ({"roi": region(1500, 0, 101, 900)}, "camera_info_roi"),
        ({"roi": region(0, 1, 1600, 900)}, "camera_info_roi"),
        ({"roi": region(0, 0, 800, 0)}, "camera_info_roi"),
        ({"roi": region(0, 0, 0, 450)}, "camera_info_roi"),
        ({"roi": region(100, 0, 0, 0)}, "camera_info_roi"),
        ({"k": [0.0] * 9}, "camera_info_matrix"),
        ({"k": [float("nan")] * 9}, "camera_info_matrix"),
        ({"k": [1000.0, float("nan"), 799.5, 0, 1100.0, 449.5, 0, 0, 1]}, "camera_info_matrix"),
        ({"k": [-1000.0, 0, 799.5, 0, 1100.0, 449.5, 0, 0, 1]}, "camera_info_matrix"),
        ({"k": [1000.0, 0, 799.5, 0, 0.0, 449.5, 0, 0, 1]}, "camera_info_matrix"),
        ({"k": [1000.0, 0, 799.5, 0, 1100.0, 449.5, 0, 0, 2]}, "camera_info_matrix"),
        ({"height": 0}, "camera_info_size"),
        ({"width": 0}, "camera_info_size"),
        ({"k": [1000.0, 1.0, 799.5, 0, 1100.0, 449.5, 0, 0, 1]}, "camera_info_matrix"),
        ({"k": [1000.0, 0, 1600.0, 0, 1100.0, 449.5, 0, 0, 1]}, "camera_info_principal_point"),
        ({"k": [1000.0, 0, 799.5, 0, 1100.0, -1.0, 0, 0, 1]}, "camera_info_principal_point"),
        ({"k": [4.2, 0, 799.5, 0, 4.2, 449.5, 0, 0, 1]}, "camera_info_field_of_view"),  # millimetres
        ({"k": [60.0, 0, 799.5, 0, 60.0, 449.5, 0, 0, 1]}, "camera_info_field_of_view"),
        ({"k": [1e5, 0, 799.5, 0, 1e5, 449.5, 0, 0, 1]}, "camera_info_field_of_view"),
        ({"width": 900, "height": 1600}, "camera_info_size"),
        ({"d": [float("nan")]}, "camera_info_distortion"),
        ({"d": [0.1] * 3}, "camera_info_distortion"),
        ({"d": [0.1] * 8}, "camera_info_distortion"),
        ({"d": [0.1] * 7, "distortion_model": "rational_polynomial"}, "camera_info_distortion"),
        ({"d": [0.1] * 5, "distortion_model": "rational_polynomial"}, "camera_info_distortion"),
        ({"d": [0.1] * 2, "distortion_model": "equidistant"}, "camera_info_distortion"),
        ({"d": [0.1] * 5, "distortion_model": "fisheye"}, "camera_info_distortion"),
        ({"d": [0.1] * 4, "distortion_model": "thin_prism"}, "camera_info_distortion"),
        ({"d": [0.1] * 4, "distortion_model": ""}, "camera_info_distortion"),
    ],
)
def test_bad_camera_info(change: dict, reason: str) -> None:
    with pytest.raises(MessageError) as error:
        to_calibration(camera_info(**change), np.eye(4))
    assert error.value.reason == reason


def test_what_is_wrong_with_a_distortion_is_said() -> None:
    for change, said in (
        ({"d": [0.1] * 3}, "camera_info_distortion: plumb_bob with 3 coefficients; 4 or 5 expected"),
        ({"d": [0.1], "distortion_model": "omni"}, "distortion model 'omni' with a D; known are plumb_bob, rational_"),
    ):
        with pytest.raises(MessageError, match=said):
            to_calibration(camera_info(**change), np.eye(4))


@pytest.mark.parametrize(
    ("model", "length"),
    [("plumb_bob", 4), ("plumb_bob", 5), ("equidistant", 4), ("fisheye", 4)]
    + [("rational_polynomial", n) for n in (8, 12, 14)],
)
def test_every_length_that_opencv_knows_for_a_model_is_taken(model: str, length: int) -> None:
    D = tuple(0.01 * (k + 1) for k in range(length))
    found = to_calibration(camera_info(d=list(D), distortion_model=model), np.eye(4))
    assert (found.distortion_model, found.D) == (model, D)


@pytest.mark.parametrize("model", ["", "plumb_bob", "none", "equidistant"])
@pytest.mark.parametrize("D", [[], [0.0] * 3, [0.0] * 5])
def test_no_distortion_is_none_under_any_name(model: str, D: list[float]) -> None:
    found = to_calibration(camera_info(d=D, distortion_model=model), np.eye(4))
    assert (found.distortion_model, found.D) == ("", ())


def test_a_fisheye_lens_may_see_half_the_world() -> None:
    K = [400.0, 0, 799.5, 0, 400.0, 449.5, 0, 0, 1]  # 1600 / 400 rad: 229 degrees
    to_calibration(camera_info(k=K, d=[0.01, 0, 0, 0], distortion_model="equidistant"), np.eye(4))
    K[0] = K[4] = 200.0
    with pytest.raises(MessageError, match="camera_info_field_of_view"):
        to_calibration(camera_info(k=K, d=[0.01, 0, 0, 0], distortion_model="equidistant"), np.eye(4))


def test_the_limits_are_those_of_the_whole_image_not_of_what_is_cut_from_it() -> None:
    """A region of interest may lie far from the principal point."""
    assert to_calibration(camera_info(roi=region(0, 0, 100, 100)), np.eye(4)).K[0, 2] == 799.5
    assert to_calibration(camera_info(roi=region(1500, 800, 100, 100)), np.eye(4)).width == 100


def test_rectification_turns_the_camera() -> None:
    """A point of the camera's frame lands where P of the turned point says."""
    R = cv2.Rodrigues(np.array([0.02, 0.03, -0.01]))[0]
    ego_from_cam = np.eye(4)
    ego_from_cam[:3] = [[0, 0, 1, 1.5], [-1, 0, 0, 0.2], [0, -1, 0, 1.4]]
    found = to_calibration(camera_info(r=R.ravel().tolist()), ego_from_cam, rectified=True)
    point = np.array([0.5, -0.3, 7.0])
    in_ego = ego_from_cam @ np.append(point, 1)
    u, v, w = found.K @ (found.cam_from_ego @ in_ego)[:3]
    expected = np.array(camera_info().p).reshape(3, 4)[:, :3] @ R @ point
    assert (u / w, v / w) == pytest.approx(tuple(expected[:2] / expected[2]))
    assert to_calibration(camera_info(r=[0.0] * 9), ego_from_cam).ego_from_cam is ego_from_cam  # not rectified: no R


@pytest.mark.parametrize(
    "r", [[0.0] * 9, [float("nan")] * 9, [1.0, 0, 0, 0, 1, 0, 0, 0, -1], [1.0, 0.1, 0, 0, 1, 0, 0, 0, 1]]
)
def test_what_is_no_rotation_is_refused(r: list[float]) -> None:
    with pytest.raises(MessageError, match="camera_info_rectification"):
        to_calibration(camera_info(r=r), np.eye(4), rectified=True)


@pytest.mark.parametrize("column", [(-108.0, 0, 0), (0, -108.0, 0), (0, 0, 0.1), (float("nan"), 0, 0)])
def test_the_baseline_of_a_stereo_pair_is_refused(column: tuple[float, float, float]) -> None:
    P = np.array(camera_info().p).reshape(3, 4)
    P[:, 3] = column
    with pytest.raises(MessageError, match="camera_info_baseline"):
        to_calibration(camera_info(p=P.ravel().tolist()), np.eye(4), rectified=True)
    to_calibration(camera_info(p=P.ravel().tolist()), np.eye(4))  # P is not used then
    P[:, 3] = (0.5, 0, 0)  # half a millimetre
    to_calibration(camera_info(p=P.ravel().tolist()), np.eye(4), rectified=True)


CALIBRATION = CameraCalibration(1600, 900, np.diag([1000.0, 1000.0, 1.0]), np.eye(4), "plumb_bob", (0.1, 0.2, 0, 0))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True), ({"K": CALIBRATION.K + 1e-3}, True), ({"K": CALIBRATION.K + 0.02}, False),
        ({"D": (0.1, 0.2 + 1e-7, 0, 0)}, True), ({"D": (0.1, 0.2 + 1e-5, 0, 0)}, False), ({"D": (0.1, 0.2)}, False),
        ({"ego_from_cam": np.eye(4) + 1e-7}, True), ({"ego_from_cam": np.eye(4) + 1e-5}, False),
        ({"width": 1601}, False), ({"height": 901}, False), ({"distortion_model": "fisheye"}, False),
    ],
)  # fmt: skip
def test_calibrations_are_the_same_up_to_what_no_image_shows(change: dict, same: bool) -> None:
    other = CameraCalibration(**{**vars(CALIBRATION), **change})
    assert same_calibration(CALIBRATION, other) is same is same_calibration(other, CALIBRATION)
