"""What node and replay do with camera_info, transforms and calibration files, and with their changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
import tiny_drive
from intake_rig import MAKE, MOUNTS, NOW, Listening, cloud, image, info, odometry

from bev_perception.calibration import CalibrationError, save_extrinsics
from bev_perception.geometry import make_transform, rotation_from_yaw


@pytest.fixture
def listening(tmp_path: Path) -> Listening:
    return Listening(tmp_path)


def test_images_must_be_as_large_as_camera_info_says_they_are_delivered(listening: Listening) -> None:
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS))

    def halve(message: Any) -> None:
        message.binning_x = message.binning_y = 2

    listening.take("cam_a camera_info", info(halve))
    listening.take("cam_a", image(8, 16))
    assert not listening.told
    listening.take("cam_a", image(16, 32, NOW + 1))
    assert listening.taken.counters == {"cam_a/image_size_differs": 1}


def test_a_bad_transform_is_named_and_the_others_are_used(listening: Listening) -> None:
    message = MAKE.transforms(NOW, "base_link", MOUNTS)
    bad = next(t for t in message.transforms if t.child_frame_id == "cam_b")
    bad.transform.translation.x = float("nan")
    listening.take("tf_static", message)
    assert listening.taken.counters == {"tf_static/bad_transform": 1}
    assert "cam_b" in listening.told[0][2]
    assert listening.intake.calibration.gap("radar_a") == ""
    assert "no static transforms from 'cam_b'" in listening.intake.calibration.gap("cam_b")


def test_each_change_of_calibration_counts_once(listening: Listening) -> None:
    for _ in range(2):  # said again is no change
        listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS))
        listening.take("cam_a camera_info", info())
    assert not listening.told

    def zoom(message: Any) -> None:
        message.k[0] *= 1.1

    listening.take("cam_a camera_info", info(zoom))
    moved = {"radar_a": tiny_drive.EGO_FROM_RADAR + np.eye(4, k=3) * 0.1}
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", moved))
    assert listening.taken.counters == {"cam_a/calibration_changed": 1, "radar_a/calibration_changed": 1}
    assert [told[:2] for told in listening.told] == [
        ("cam_a", "calibration_changed"), ("radar_a", "calibration_changed"),
    ]  # fmt: skip
    assert not listening.intake.faults
    moved = {"cam_a": tiny_drive.EGO_FROM_CAM + np.eye(4, k=3) * 0.1}
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", moved))
    assert listening.taken.counters["cam_a/calibration_changed"] == 2
    assert listening.told[-1] == ("cam_a", "calibration_changed", "its static transform changed while running")
    assert len(listening.told) == 3

    def spoil(message: Any) -> None:
        message.k[0] = 0.0

    listening.take("cam_a camera_info", info(spoil))
    assert listening.taken.counters["cam_a camera_info/camera_info_matrix"] == 1
    assert listening.taken.counters["cam_a/calibration_changed"] == 2


@pytest.mark.parametrize(
    "change",
    [
        {"width": 33}, {"height": 17}, {"binning_x": 2}, {"binning_y": 2}, {"d": np.full(5, 0.1)},
        {"k": 2 * np.array([20.0, 0, 15.5, 0, 20, 7.5, 0, 0, 0.5])},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_whatever_camera_info_says_anew_is_a_change(listening: Listening, change: dict[str, Any]) -> None:
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS))
    listening.take("cam_a camera_info", info())
    assert not listening.told
    ((name, value),) = change.items()
    new = info(lambda message: setattr(message, name, value))
    for message, counted in ((new, 1), (new, 1), (info(), 2)):
        listening.take("cam_a camera_info", message)
        assert listening.taken.counters["cam_a/calibration_changed"] == counted


UP = make_transform(np.eye(3), np.array([0.5, 0.0, 1.5]))  # no optical frame: it looks at the sky


def test_extrinsics_that_cannot_be_are_refused_once_and_only_for_their_sensor(listening: Listening) -> None:
    wrong = {**MOUNTS, "cam_a": UP}
    for _ in range(2):
        listening.take("tf_static", MAKE.transforms(NOW, "base_link", wrong))
        listening.take("cam_a camera_info", info())
    assert [told[:2] for told in listening.told] == [("cam_a", "mount_pitch")]
    assert listening.taken.counters == {"cam_a/mount_pitch": 1}
    assert listening.intake.calibration.gap("cam_a").startswith("mount_pitch: the optical axis points 90 degrees up")
    assert listening.intake.calibration.gap("radar_a") == ""
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS))
    assert listening.intake.calibration.gap("cam_a") == "" and len(listening.told) == 1


def missing_in_a_frame(listening: Listening, stamp_ns: int) -> dict[str, str]:
    """What the frame at a stamp lacks, of odometry, radar_a and cam_a then."""
    scan = cloud(stamp_ns=stamp_ns - 50 * tiny_drive.MS)
    for sensor, message in (("odometry", odometry(stamp_ns)), ("cam_a", image(stamp_ns=stamp_ns)), ("radar_a", scan)):
        listening.take(sensor, message, stamp_ns)
    listening.taken.advance(stamp_ns + 200 * tiny_drive.MS)
    frames = listening.frames.poll()
    (frame,) = (f for f in frames if f.stamp_ns == stamp_ns)
    return frame.missing


SIDEWAYS = make_transform(np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]]), np.array([3.0, 0.0, 0.5]))


@pytest.mark.parametrize(
    ("sensor", "pose", "reason"), [("cam_a", UP, "mount_pitch"), ("radar_a", SIDEWAYS, "mount_roll")]
)
def test_extrinsics_that_turn_impossible_while_driving_are_used_no_longer(
    tmp_path: Path, sensor: str, pose: np.ndarray, reason: str
) -> None:
    listening = Listening(tmp_path, {"sync.startup_ms": 0.0})
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS))
    listening.take("cam_a camera_info", info())
    assert set(missing_in_a_frame(listening, NOW)) == {"cam_b"}
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", {sensor: pose}), NOW + 300 * tiny_drive.MS)
    missing = missing_in_a_frame(listening, NOW + 500 * tiny_drive.MS)
    assert missing.pop(sensor) == "no_calibration" and set(missing) == {"cam_b"}
    assert [told[:2] for told in listening.told] == [(sensor, reason), (sensor, "calibration_lost")]
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS), NOW + 800 * tiny_drive.MS)
    assert set(missing_in_a_frame(listening, NOW + 1000 * tiny_drive.MS)) == {"cam_b"}


def test_impossible_extrinsics_may_be_only_told(tmp_path: Path) -> None:
    listening = Listening(tmp_path, {"extrinsics.implausible": "use", "sync.startup_ms": 0.0})
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", {**MOUNTS, "cam_a": UP}))
    listening.take("cam_a camera_info", info())
    assert [told[:2] for told in listening.told] == [("cam_a", "mount_pitch")]
    assert set(missing_in_a_frame(listening, NOW)) == {"cam_b"}


def test_a_calibration_file_in_the_wrong_order_is_refused_as_a_whole(tmp_path: Path) -> None:
    """Half of its poses look possible, so that refusing the others would leave wrong ones in use."""
    path = tmp_path / "calibration.yaml"
    yaw = make_transform(rotation_from_yaw(np.pi / 2), np.zeros(3))  # both cameras look to the left, the radar too
    save_extrinsics(path, "base_link", {name: yaw @ pose for name, pose in MOUNTS.items()})
    values = {"extrinsics.source": "file", "extrinsics.file": str(path)}
    assert Listening(tmp_path, values).told == []
    tree = yaml.safe_load(path.read_text())
    for entry in tree["sensors"].values():
        w, x, y, z = entry["rotation_wxyz"]
        entry["rotation_wxyz"] = [x, y, z, w]
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(CalibrationError, match=r"rotation_wxyz: \d of 3 sensors look where none can"):
        Listening(tmp_path, values)
    assert Listening(tmp_path, values | {"extrinsics.implausible": "use"}).told


def test_the_model_of_a_distortion_counts_where_there_is_one(listening: Listening) -> None:
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS))

    def bend(model: str, first: float) -> Callable[[Any], None]:
        return lambda message: vars(message).update(distortion_model=model, d=np.array([first, 0.0, 0.0, 0.0]))

    for counted, model, first in (
        (0, "plumb_bob", 0.0),
        (0, "fisheye", 0.0),
        (1, "fisheye", 0.1),
        (2, "plumb_bob", 0.1),
    ):
        listening.take("cam_a camera_info", info(bend(model, first)))
        assert listening.taken.counters["cam_a/calibration_changed"] == counted


def test_jitter_is_no_change_but_what_it_adds_up_to_is(listening: Listening) -> None:
    """A thousandth of a pixel, this way and that, as drivers that compute K anew have it; then a slow drift."""
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS))
    rng = np.random.default_rng(0)

    def shake(message: Any) -> None:
        message.k[[0, 2, 4, 5]] += rng.uniform(-1e-3, 1e-3, 4)
        message.d = 0.1 * np.arange(5) + rng.uniform(-1e-8, 1e-8, 5)

    for _ in range(50):
        listening.take("cam_a camera_info", info(shake))
    assert not listening.told

    def drift(message: Any, by: float) -> None:
        shake(message)
        message.k[0] = tiny_drive.K[0, 0] + by

    for step in range(16):
        listening.take("cam_a camera_info", info(partial(drift, by=step * 1e-3)))
    assert listening.taken.counters["cam_a/calibration_changed"] == 1


def test_jitter_of_a_transform_is_no_change_but_what_it_adds_up_to_is(listening: Listening) -> None:
    """Of a camera and of a radar alike: 10 nanometres, this way and that; then a drift of a third of a micrometre."""
    rng = np.random.default_rng(0)

    def say(by_m: float) -> None:
        moved = {name: pose + by_m * np.eye(4, k=3) for name, pose in MOUNTS.items()}
        listening.take("tf_static", MAKE.transforms(NOW, "base_link", moved))

    say(0.0)
    for camera in tiny_drive.CAMERAS:
        listening.take(f"{camera} camera_info", info(lambda m, name=camera: setattr(m.header, "frame_id", name)))
    for by in rng.uniform(-1e-8, 1e-8, 50):
        say(by)
    assert not listening.told and listening.taken.counters == {}
    for step in range(5):
        say(step * 0.3e-6)
    assert listening.taken.counters == {f"{name}/calibration_changed": 1 for name in MOUNTS}


def test_camera_info_of_another_frame_is_refused(listening: Listening) -> None:
    def elsewhere(message: Any) -> None:
        message.header.frame_id = "cam_b"

    listening.take("cam_a camera_info", info(elsewhere))
    assert [told[:2] for told in listening.told] == [("cam_a camera_info", "wrong_frame")]
    assert "camera_info" in listening.intake.calibration.gap("cam_a")


def test_a_rectified_camera_looks_where_rectification_turned_it(tmp_path: Path) -> None:
    listening = Listening(tmp_path, {"cameras.cam_a.rectified": True})
    rotation = cv2.Rodrigues(np.array([0.01, -0.02, 0.005]))[0]
    listening.take("cam_a camera_info", info(lambda message: setattr(message, "r", rotation.ravel())))
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS))
    found = listening.intake.calibration.of_camera("cam_a").ego_from_cam
    point = np.array([0.3, -0.2, 5.0])  # as the camera sees it; the rectified one sees R @ point
    assert found @ np.append(rotation @ point, 1) == pytest.approx(tiny_drive.EGO_FROM_CAM @ np.append(point, 1))


def test_a_region_of_interest_and_a_rectified_camera_count_too(tmp_path: Path) -> None:
    listening = Listening(tmp_path, {"cameras.cam_a.rectified": True})
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS))
    listening.take("cam_a camera_info", info())

    def cut(message: Any) -> None:
        message.roi.x_offset, message.roi.width, message.roi.height = 4, 16, 16

    def rectify(message: Any) -> None:
        message.p[0] *= 1.1

    for counted, change in enumerate((cut, rectify), 1):
        listening.take("cam_a camera_info", info(change))
        assert listening.taken.counters["cam_a/calibration_changed"] == counted
