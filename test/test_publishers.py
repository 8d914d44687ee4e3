"""Detections -> messages, on values that were worked out by hand; each message is read from its serialised bytes."""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
for package in ("vision_msgs", "autoware_perception_msgs"):
    pytest.importorskip(package, reason=f"{package} is not installed; test/stand_ins/{package} can be built instead")

from autoware_perception_msgs.msg import DetectedObjectKinematics, ObjectClassification, Shape  # noqa: E402
from rclpy.serialization import deserialize_message, serialize_message  # noqa: E402
from std_msgs.msg import ColorRGBA, Header  # noqa: E402
from visualization_msgs.msg import Marker  # noqa: E402

from bev_perception.colors import CLASS_COLORS, OTHER_COLOR  # noqa: E402
from bev_perception.messages import (  # noqa: E402
    AUTOWARE_LABELS,
    DIAGNOSTICS_TOPIC,
    PUBLISHERS,
    STATUS_TOPIC,
    Context,
    Output,
)
from bev_perception.model_spec import CLASSES, ModelSpec  # noqa: E402
from bev_perception.structures import Composition, Detections  # noqa: E402

NAMES = ("car", "pedestrian", "cow", "construction_vehicle")  # no table knows a cow
SENSORS = ("cam_a", "cam_b"), ("radar_a",)
LIMITS = dict.fromkeys(NAMES, 0.1), dict.fromkeys(NAMES, 1.0)
SPEC = ModelSpec("shown", *SENSORS, *LIMITS, NAMES, onnx_sha256="c0" * 32)
CONTEXT = Context(SPEC, "base_link", marker_lifetime_s=2.25)
STAMP_NS = 1_700_000_003_000_000_250
ROOT3 = math.sqrt(3)
# class, centre, length width height, yaw in degrees, velocity along ego x and y, score, velocity along its own axes
OBJECTS = (
    # drives along its heading at 10 m/s
    ("car", (10.0, -4.0, 0.75), (4.5, 2.0, 1.5), 30, (5 * ROOT3, 5.0), 0.875, (10.0, 0.0)),
    # looks to the left and goes backwards in x: that is to its own left
    ("pedestrian", (-3.0, 6.5, 1.0), (0.5, 0.75, 1.75), 90, (-2.0, 0.0), 0.5, (0.0, 2.0)),
    # looks right and slides forwards in x at just less than what gets an arrow: that is to its own left again
    ("cow", (0.0, 8.0, 0.8), (2.5, 0.8, 1.6), -90, (0.25, 0.0), 0.25, (0.0, 0.25)),
    # looks backwards and rolls backwards, just fast enough for an arrow
    ("construction_vehicle", (20.0, 1.0, 1.25), (6.0, 3.0, 2.5), 180, (0.3125, 0.0625), 0.125, (-0.3125, -0.0625)),
)


@pytest.fixture
def detections() -> Detections:
    return Detections(
        stamp_ns=STAMP_NS,
        boxes=np.array([(*at, *size, math.radians(yaw)) for _, at, size, yaw, *_ in OBJECTS], dtype=np.float32),
        velocity=np.array([row[4] for row in OBJECTS], dtype=np.float32),
        scores=np.array([row[5] for row in OBJECTS], dtype=np.float32),
        labels=np.array([NAMES.index(row[0]) for row in OBJECTS]),
        sensors_used=("cam_a", "radar_a"),
        missing={"cam_b": "stale"},
        temporal_used=True,
    )


def received(name: str, detections: Detections) -> Any:
    """The message of a row of PUBLISHERS as a subscriber gets it."""
    message = PUBLISHERS[name].convert(detections, CONTEXT)
    assert type(message) is PUBLISHERS[name].message_type()
    return deserialize_message(serialize_message(message), type(message))


def check_header(header: Header) -> None:
    assert header.frame_id == "base_link"
    assert (header.stamp.sec, header.stamp.nanosec) == (1_700_000_003, 250)


def xyz(value: Any) -> Any:
    return pytest.approx((value.x, value.y, value.z), abs=1e-6)


def check_pose(pose: Any, at: tuple[float, ...], yaw_deg: float) -> None:
    """At `at`; the quaternion turns the x axis into the heading and leaves z upright."""
    q = pose.orientation
    assert at == xyz(pose.position)
    assert (q.x, q.y) == (0, 0)
    heading = (1 - 2 * q.z * q.z, 2 * q.z * q.w)
    assert heading == pytest.approx((math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))), abs=1e-6)
    assert q.w**2 + q.z**2 == pytest.approx(1) and q.w >= -1e-6


def check_not_estimated(covariance: Any) -> None:
    np.testing.assert_array_equal(np.reshape(covariance, (6, 6)), -np.eye(6))


def test_detection_array(detections: Detections) -> None:
    message = received("detections", detections)
    check_header(message.header)
    assert (message.model_name, message.model_sha256) == ("shown", "c0" * 32)
    assert (message.sensors_used, message.sensors_missing) == (["cam_a", "radar_a"], ["cam_b"])
    assert message.temporal_used is True
    assert len(message.detections) == len(OBJECTS)
    for label, (found, (name, at, size, yaw, velocity, score, _)) in enumerate(zip(message.detections, OBJECTS)):
        assert (found.class_name, found.label, found.score) == (name, label, score)
        assert math.isnan(found.existence_probability)
        check_pose(found.pose.pose, at, yaw)
        assert size == xyz(found.dimensions)
        assert (*velocity, 0.0) == xyz(found.twist.twist.linear)
        assert (0, 0, 0) == xyz(found.twist.twist.angular)
        check_not_estimated(found.pose.covariance)
        check_not_estimated(found.twist.covariance)
        assert (found.id, found.attribute, found.num_sensor_points) == ("", "", 0)


def test_what_a_frame_was_made_of(detections: Detections) -> None:
    stamps = {"cam_a": (STAMP_NS - 7,), "radar_a": (STAMP_NS - 9, 1_700_000_002 * 10**9 + 3)}
    made_of = Composition("deadline", stamps, {"cam_b": "late"}, STAMP_NS + 11, 0xFEDCBA98)
    message = received("detections", dataclasses.replace(detections, composition=made_of))
    assert (message.closed_by, message.poses_crc32) == ("deadline", 0xFEDCBA98)
    assert (message.pose_stamp.sec, message.pose_stamp.nanosec) == (1_700_000_003, 261)
    found = [(i.name, [(t.sec, t.nanosec) for t in i.stamps], i.missing) for i in message.inputs]
    assert found == [
        ("cam_a", [(1_700_000_003, 243)], ""),
        ("cam_b", [], "stale"),  # why it did not contribute in the end
        ("radar_a", [(1_700_000_003, 241), (1_700_000_002, 3)], ""),
    ]


def test_a_frame_without_memory_says_so(detections: Detections) -> None:
    nothing = Detections(STAMP_NS, np.zeros((0, 7)), np.zeros((0, 2)), np.zeros(0), np.zeros(0, dtype=int))
    assert received("detections", nothing).temporal_used is False


def test_markers(detections: Detections) -> None:
    first, *markers = received("markers", detections).markers
    assert (first.action, first.ns, first.id) == (Marker.DELETEALL, "", 0)
    check_header(first.header)
    for marker in markers:
        check_header(marker.header)
        assert marker.action == Marker.ADD and not marker.frame_locked
        assert (marker.lifetime.sec, marker.lifetime.nanosec) == (2, 250_000_000)
    found = {(m.ns, m.id): m for m in markers}
    assert len(found) == len(markers)  # RViz tells markers apart by these two
    expected = [(namespace, i) for i in range(len(OBJECTS)) for namespace in ("boxes", "labels")]
    assert list(found) == [*expected, ("heading", 0), ("velocity", 0)]

    for i, (name, (x, y, z), size, yaw, _, score, _) in enumerate(OBJECTS):
        box, text = found["boxes", i], found["labels", i]
        assert box.type == Marker.CUBE
        check_pose(box.pose, (x, y, z), yaw)
        assert size == xyz(box.scale)
        assert box.color == color(name, 0.5)
        assert text.type == Marker.TEXT_VIEW_FACING
        assert text.text == f"{name} {score:.2f}"
        check_pose(text.pose, (x, y, z + size[2] / 2 + 0.6), 0)
        assert text.scale.z == 0.8
        assert text.color == color(name, 1.0)


def color(name: str, alpha: float) -> ColorRGBA:
    """As it comes out of float32."""
    b, g, r = CLASS_COLORS.get(name, OTHER_COLOR)
    r, g, b, a = np.float32([r / 255, g / 255, b / 255, alpha]).tolist()
    return ColorRGBA(r=r, g=g, b=b, a=a)


def test_lines_of_the_markers(detections: Detections) -> None:
    """The heading starts in the centre and reaches 0.7 m out of the front; the velocity where it will be in a second,
    for what moves."""
    markers = {m.ns: m for m in received("markers", detections).markers}
    heading, velocity = markers["heading"], markers["velocity"]
    assert heading.type == velocity.type == Marker.LINE_LIST
    assert (heading.scale.x, velocity.scale.x) == (0.08, 0.2)
    for line in (heading, velocity):
        check_pose(line.pose, (0, 0, 0), 0)

    def check(line: Marker, ends: list[tuple[int, float, float]]) -> None:
        """ends: object, and how far the line goes from its centre."""
        assert len(line.points) == len(line.colors) == 2 * len(ends)
        for k, (i, dx, dy) in enumerate(ends):
            name, (x, y, z), *_ = OBJECTS[i]
            start, end = line.points[2 * k : 2 * k + 2]
            assert (x, y, z) == xyz(start)
            assert (x + dx, y + dy, z) == xyz(end)
            assert line.colors[2 * k] == line.colors[2 * k + 1] == color(name, 1.0)

    car = 4.5 / 2 + 0.7
    check(heading, [(0, car * ROOT3 / 2, car / 2), (1, 0, 0.95), (2, 0, -1.95), (3, -3.7, 0)])
    check(velocity, [(0, 5 * ROOT3, 5), (1, -2, 0), (3, 0.3125, 0.0625)])


def test_what_stands_has_no_velocity_line() -> None:
    still = Detections(STAMP_NS, np.ones((1, 7)), np.zeros((1, 2)), np.ones(1), np.zeros(1, dtype=int))
    assert [m.ns for m in received("markers", still).markers] == ["", "boxes", "labels", "heading"]
    none = Detections(STAMP_NS, np.ones((0, 7)), np.zeros((0, 2)), np.ones(0), np.zeros(0, dtype=int))
    assert [m.action for m in received("markers", none).markers] == [Marker.DELETEALL]


def test_vision_detections(detections: Detections) -> None:
    message = received("vision_msgs", detections)
    check_header(message.header)
    assert len(message.detections) == len(OBJECTS)
    for found, (name, at, size, yaw, _, score, _) in zip(message.detections, OBJECTS):
        check_header(found.header)
        assert found.id == ""
        (result,) = found.results
        assert (result.hypothesis.class_id, result.hypothesis.score) == (name, score)
        check_pose(result.pose.pose, at, yaw)
        check_not_estimated(result.pose.covariance)
        check_pose(found.bbox.center, at, yaw)
        assert size == xyz(found.bbox.size)


def test_autoware_objects(detections: Detections) -> None:
    message = received("autoware", detections)
    check_header(message.header)
    labels = {"car": 1, "pedestrian": 7, "cow": 0, "construction_vehicle": 2}
    assert len(message.objects) == len(OBJECTS)
    for found, (name, at, size, yaw, _, score, own_velocity) in zip(message.objects, OBJECTS):
        assert found.existence_probability == score
        assert found.classification == [ObjectClassification(label=labels[name], probability=1.0)]
        kinematics = found.kinematics
        check_pose(kinematics.pose_with_covariance.pose, at, yaw)
        assert kinematics.orientation_availability == DetectedObjectKinematics.AVAILABLE
        assert (kinematics.has_twist, kinematics.has_twist_covariance) == (True, False)
        assert kinematics.has_position_covariance is False
        assert (*own_velocity, 0.0) == xyz(kinematics.twist_with_covariance.twist.linear)
        assert (0, 0, 0) == xyz(kinematics.twist_with_covariance.twist.angular)
        assert found.shape.type == Shape.BOUNDING_BOX
        assert size == xyz(found.shape.dimensions)
        assert found.shape.footprint.points == []


def test_every_class_of_the_students_has_a_label_of_autoware() -> None:
    """By their own names, but for those that Autoware does not tell apart."""
    others = {"construction_vehicle": "TRUCK", "barrier": "UNKNOWN", "traffic_cone": "UNKNOWN"}
    for name in CLASSES:
        expected = others.get(name, name.upper())
        assert AUTOWARE_LABELS.get(name, "UNKNOWN") == expected
        assert hasattr(ObjectClassification, expected)


def test_every_class_of_the_students_has_a_colour_of_its_own() -> None:
    assert set(CLASS_COLORS) == set(CLASSES)
    colors = {*CLASS_COLORS.values(), OTHER_COLOR}
    assert len(colors) == len(CLASSES) + 1 and all(0 <= part <= 255 for bgr in colors for part in bgr)


def test_the_table_of_publishers() -> None:
    """The topics are what other nodes subscribe to."""
    assert {name: row.topic for name, row in PUBLISHERS.items()} == {
        "detections": "perception/detections",
        "markers": "perception/markers",
        "vision_msgs": "perception/vision_detections",
        "autoware": "perception/objects",
    }
    assert (STATUS_TOPIC, DIAGNOSTICS_TOPIC) == ("perception/status", "/diagnostics")
    for row in PUBLISHERS.values():
        found = row.message_type()
        assert (found.__module__.partition(".")[0], found.__name__) == (row.package, row.kind.rpartition("/")[2])
    with pytest.raises(ImportError, match="std_msgs has no message Nothing"):
        Output("nowhere", "std_msgs/msg/Nothing", PUBLISHERS["markers"].convert).message_type()


@pytest.mark.parametrize("row", [PUBLISHERS["vision_msgs"], PUBLISHERS["autoware"]], ids=lambda row: row.package)
def test_a_package_that_is_missing_is_an_import_error(row: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, f"{row.package}.msg", None)
    with pytest.raises(ImportError, match=row.package):
        row.message_type()
