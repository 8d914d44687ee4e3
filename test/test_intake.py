"""What node and replay do with a message before the synchroniser: refusals and faults."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
import tiny_drive
from intake_rig import MAKE, MOUNTS, NOW, Listening, cloud, image, info, odometry

from bev_perception.calibration import save_extrinsics
from bev_perception.sensors.intake import HINTS


@pytest.fixture
def listening(tmp_path: Path) -> Listening:
    return Listening(tmp_path)


def test_what_is_taken_in_is_told_with_its_message(listening):
    """Images and scans, once, and nothing that was refused."""
    messages = [("cam_a", image()), ("radar_a", cloud()), ("radar_a", cloud()), ("odometry", odometry())]
    for sensor, message in [*messages, ("cam_a", image(stamp_ns=NOW + 10**12))]:
        listening.take(sensor, message)
    assert [(measured.sensor, message) for measured, message in listening.heard] == messages[:2]
    assert [reason for _, reason, _ in listening.told] == ["duplicate", "future_stamp"]


def test_a_fault_lasts_until_a_good_message(listening: Listening) -> None:
    bad = image()
    bad.header.frame_id = "cam_b"
    listening.take("cam_a", bad)
    listening.take("cam_a", image(stamp_ns=NOW + 3600 * 10**9))
    assert [(sensor, reason) for sensor, reason, _ in listening.told] == [
        ("cam_a", "wrong_frame"), ("cam_a", "future_stamp"),
    ]  # fmt: skip
    assert listening.taken.counters == {"cam_a/wrong_frame": 1, "cam_a/future_stamp": 1}
    assert listening.intake.faults["cam_a"] == ("future_stamp", listening.told[1][2])
    assert listening.told[1][2].startswith("its stamp is 3600.000 s ahead of the clock; synchronise the clocks")
    listening.take("cam_a", image())
    assert not listening.intake.faults and len(listening.told) == 2


def test_the_topics_that_are_listened_to(listening: Listening, tmp_path: Path) -> None:
    found = [(s.topic, s.sensor, s.kind) for s in listening.intake.sources]
    assert found == [
        ("/tf_static", "tf_static", "tf2_msgs/msg/TFMessage"),
        ("/camera/cam_a/image_raw", "cam_a", "sensor_msgs/msg/Image"),
        ("/camera/cam_a/camera_info", "cam_a camera_info", "sensor_msgs/msg/CameraInfo"),
        ("/camera/cam_b/image_raw", "cam_b", "sensor_msgs/msg/Image"),
        ("/camera/cam_b/camera_info", "cam_b camera_info", "sensor_msgs/msg/CameraInfo"),
        ("/radar/radar_a/points", "radar_a", "sensor_msgs/msg/PointCloud2"),
        ("/odometry", "odometry", "nav_msgs/msg/Odometry"),
    ]
    save_extrinsics(tmp_path / "calibration.yaml", "base_link", MOUNTS)
    other = Listening(
        tmp_path,
        {
            "cameras.cam_b.compressed": True, "extrinsics.source": "file",
            "extrinsics.file": str(tmp_path / "calibration.yaml"),
        },
    )  # fmt: skip
    kinds = [s.kind.rpartition("/")[2] for s in other.intake.sources]
    assert kinds == ["Image", "CameraInfo", "CompressedImage", "CameraInfo", "PointCloud2", "Odometry"]
    assert other.intake.calibration.gap("radar_a") == ""
    assert "/camera/cam_a/camera_info" in other.intake.calibration.gap("cam_a")


def test_each_measurement_reaches_the_synchroniser(listening: Listening) -> None:
    for sensor, message in (("cam_a", image()), ("radar_a", cloud()), ("odometry", odometry())):
        assert listening.newest_ns(sensor) is None
        listening.take(sensor, message)
        assert listening.newest_ns(sensor) is not None
    listening.take("odometry", odometry(NOW - 2_500 * tiny_drive.MS))
    assert listening.intake.faults["odometry"][0] == "too_old"
    assert listening.told[-1][2].startswith("its stamp is 2.500 s behind the clock; synchronise the clocks, or play")
    listening.take("radar_a", cloud())
    now = "its stamp is 0.000 s ahead of the clock"
    assert listening.told[-1] == ("radar_a", "duplicate", now + HINTS["duplicate"])
    moved = odometry()
    moved.child_frame_id = "imu"
    listening.take("odometry", moved)
    assert listening.intake.faults["odometry"][0] == "wrong_frame"


def test_returns_that_are_not_finite_are_told_and_the_others_used(listening: Listening) -> None:
    listening.take("radar_a", cloud())
    assert not listening.told
    listening.take("radar_a", cloud(3, spoiled=1, stamp_ns=NOW + 1))
    assert [told[:2] for told in listening.told] == [("radar_a", "radar_returns_not_finite")]
    assert "1 of 3 returns" in listening.told[0][2]
    assert not listening.intake.faults  # the scan is taken
    wrong = cloud(stamp_ns=NOW + 2)
    wrong.header.frame_id = "radar_b"
    listening.take("radar_a", wrong)
    assert listening.intake.faults["radar_a"][0] == "wrong_frame"


def test_compressed_images_are_taken(tmp_path: Path) -> None:
    listening = Listening(tmp_path, {"cameras.cam_a.compressed": True})
    jpeg = cv2.imencode(".jpg", np.zeros((16, 32, 3), np.uint8))[1].tobytes()
    listening.take("cam_a", MAKE.compressed_image(NOW, "cam_a", jpeg))
    assert not listening.told and listening.newest_ns("cam_a") == NOW


def test_before_the_clock_starts_only_calibration_is_taken(listening: Listening) -> None:
    listening.take("tf_static", MAKE.transforms(NOW, "base_link", MOUNTS), now_ns=0)
    listening.take("cam_a camera_info", info(), now_ns=0)
    listening.take("cam_a", image(), now_ns=0)
    assert listening.taken.counters == {"cam_a/clock_not_started": 1}
    assert listening.intake.calibration.gap("cam_a") == listening.intake.calibration.gap("radar_a") == ""
    assert "camera_info" in listening.intake.calibration.gap("cam_b")


def test_returns_that_cannot_be_are_told_and_the_others_used(tmp_path: Path) -> None:
    listening = Listening(tmp_path, {"radars.radar_a.field_of_view_deg": 120.0, "radar_limits.range_m": 100.0})
    message = cloud(9)
    points = np.frombuffer(message.data.tobytes(), tiny_drive.RADAR_DTYPE).copy()
    points["x"][:2] = 101.0, -5.0
    listening.take("radar_a", MAKE.cloud(NOW, "radar_a", points))
    assert [told[:2] for told in listening.told] == [("radar_a", "return_too_far"), ("radar_a", "return_outside_view")]
    assert not listening.intake.faults and listening.newest_ns("radar_a") == NOW
    points["x"] *= 1000.0
    listening.take("radar_a", MAKE.cloud(NOW + 1, "radar_a", points))
    reason, detail = listening.intake.faults["radar_a"]
    assert reason == "return_too_far"
    assert detail.startswith("9 of 9 returns beyond 100 m (radar_limits.range_m): the scan is refused")


def test_a_twist_that_is_another_motion_is_told_while_it_lasts(listening: Listening) -> None:
    doubts = []
    for k in range(100):
        stamp = NOW + k * 20 * tiny_drive.MS
        wrong = 3.6 if k < 50 else 1.0
        pose = np.eye(4) + 3.0 * k * 0.02 * np.eye(4, k=3)
        listening.take("odometry", MAKE.odometry(stamp, pose, (3.0 * wrong, 0.0, 0.0)), stamp)
        doubts.append(listening.intake.doubts.get("odometry", ""))
    count = listening.taken.counters["odometry/twist_disagrees"]
    assert doubts[49].startswith("twist_disagrees: twist says (10.80, 0.00, 0.00) m/s") and not doubts[0]
    assert listening.intake.doubts == {}
    assert 25 <= count <= 60 and {told[:2] for told in listening.told} == {("odometry", "twist_disagrees")}
    assert listening.told[0][2] == (
        "twist says (10.80, 0.00, 0.00) m/s, the poses say (3.00, 0.00, 0.00); used are the poses"
    )
