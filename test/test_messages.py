"""The messages: every field documented, and every value survives."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MESSAGES = sorted((ROOT / "bev_perception_msgs" / "msg").glob("*.msg"))

needs_messages = pytest.mark.skipif(
    subprocess.run([sys.executable, "-c", "import bev_perception_msgs.msg, rclpy"], capture_output=True).returncode
    != 0,
    reason="bev_perception_msgs is not built or ROS 2 is not sourced: `make test` does both",
)


def undocumented(text: str) -> list[str]:
    """Fields and constants with no comment beside them or above their paragraph."""
    missing, commented = [], False
    for line in text.splitlines():
        if not line.strip():
            commented = False
        elif line.startswith("#"):
            commented = True
        elif not commented and "#" not in line:
            missing.append(line)
    return missing


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_every_field_is_documented(path: Path) -> None:
    text = path.read_text()
    assert undocumented(text) == []
    # after the description of the message itself there is at least one field
    assert re.search(r"^[a-zA-Z]\S* [a-z_]+$", text, re.MULTILINE)


def test_undocumented_field_is_found() -> None:
    assert undocumented("# About the message.\n\nuint8 a\n\n# Documented [m].\nfloat32 b\n") == ["uint8 a"]


def filled_array():
    from bev_perception_msgs.msg import Detection3D, Detection3DArray

    detection = Detection3D(class_name="pedestrian", label=5, score=0.75, existence_probability=math.nan, id="17")
    detection.pose.pose.position.x = 12.5
    detection.pose.pose.orientation.z = math.sin(0.3)
    detection.pose.pose.orientation.w = math.cos(0.3)
    detection.pose.covariance[0] = -1.0
    detection.dimensions.z = 1.8
    detection.twist.twist.linear.y = -1.25
    detection.attribute = "pedestrian.moving"
    detection.num_sensor_points = 42
    message = Detection3DArray(model_name="demo", model_sha256="ab" * 32, temporal_used=True, detections=[detection])
    message.header.frame_id = "base_link"
    message.header.stamp.sec = 1_700_000_000
    message.header.stamp.nanosec = 123_456_789
    message.sensors_used = ["CAM_FRONT"]
    message.sensors_missing = ["RADAR_FRONT"]
    return message


@needs_messages
def test_bytes_are_read_by_the_bag_reader() -> None:
    """rosbags, which parses the .msg files by itself, reads what ROS 2 wrote: recordings need no ROS 2 to be scored."""
    rosbags = pytest.importorskip("rosbags.typesys", reason="rosbags is part of the evaluation extra")
    from rclpy.serialization import serialize_message

    store = rosbags.get_typestore(rosbags.Stores.ROS2_JAZZY)
    for path in MESSAGES:
        store.register(rosbags.get_types_from_msg(path.read_text(), f"bev_perception_msgs/msg/{path.stem}"))
    read = store.deserialize_cdr(serialize_message(filled_array()), "bev_perception_msgs/msg/Detection3DArray")

    assert (read.header.stamp.sec, read.header.stamp.nanosec) == (1_700_000_000, 123_456_789)
    assert (read.model_name, read.model_sha256, read.temporal_used) == ("demo", "ab" * 32, True)
    assert (read.sensors_used, read.sensors_missing) == (["CAM_FRONT"], ["RADAR_FRONT"])
    (detection,) = read.detections
    assert (detection.class_name, detection.label, detection.score) == ("pedestrian", 5, 0.75)
    assert math.isnan(detection.existence_probability)
    assert detection.pose.pose.position.x == 12.5
    assert math.isclose(detection.pose.pose.orientation.z, math.sin(0.3))
    assert detection.pose.covariance[0] == -1.0
    assert detection.dimensions.z == 1.8
    assert detection.twist.twist.linear.y == -1.25
    assert (detection.id, detection.attribute, detection.num_sensor_points) == ("17", "pedestrian.moving", 42)


@needs_messages
def test_status_states_are_distinct() -> None:
    from bev_perception_msgs.msg import PerceptionStatus, SensorState

    levels = [PerceptionStatus.OK, PerceptionStatus.DEGRADED, PerceptionStatus.NO_OUTPUT, PerceptionStatus.INACTIVE]
    states = [SensorState.OK, SensorState.STALE, SensorState.MISSING, SensorState.NEVER_SEEN, SensorState.INVALID]
    assert levels == [0, 1, 2, 3]
    assert states == [0, 1, 2, 3, 4]
