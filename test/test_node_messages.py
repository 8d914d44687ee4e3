"""Messages as no sensor should send them, over real DDS: a named diagnostic, a live node, and the next good frame."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")

from lifecycle_msgs.msg import Transition  # noqa: E402
from node_rig import (  # noqa: E402
    RADAR_FIELDS,
    NodeProcess,
    Rig,
    make_image,
    make_info,
    make_pose,
    make_scan,
    running_node,
    stamp_ns,
    stamped,
)
from sensor_msgs.msg import Image, PointField  # noqa: E402

from bev_perception_msgs.msg import PerceptionStatus, SensorState  # noqa: E402

SECOND = 1_000_000_000
Running = tuple[NodeProcess, Rig]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("node")
    bundle = tiny_bundle.write_bundle(folder / "bundle")
    with running_node(folder, bundle.path, bundle.spec) as (process, rig):
        assert rig.change_state(Transition.TRANSITION_CONFIGURE), process.log.read_text()
        assert rig.change_state(Transition.TRANSITION_ACTIVATE), process.log.read_text()
        rig.drive_until_detection()
        yield process, rig
        assert "Traceback" not in process.log.read_text()


# Each takes the rig and the present stamp and publishes what nobody should.
def wrong_encoding(rig: Rig, now: int) -> None:
    message = make_image("cam_a", now + 1)
    message.encoding = "32FC1"
    rig.images["cam_a"].publish(message)


def short_data(rig: Rig, now: int) -> None:
    message = make_image("cam_a", now + 1)
    del message.data[100:]
    rig.images["cam_a"].publish(message)


def empty_image(rig: Rig, now: int) -> None:
    rig.images["cam_a"].publish(stamped(Image(encoding="bgr8"), now + 1, "cam_a"))


def wrong_step(rig: Rig, now: int) -> None:
    message = make_image("cam_a", now + 1)
    message.step = 7
    rig.images["cam_a"].publish(message)


def wrong_size(rig: Rig, now: int) -> None:
    message = make_image("cam_a", now + 1)
    message.width, message.height = message.height, message.width
    message.step = message.width * 3
    rig.images["cam_a"].publish(message)


def wrong_frame(rig: Rig, now: int) -> None:
    message = make_image("cam_a", now + 1)
    message.header.frame_id = "cam_b"
    rig.images["cam_a"].publish(message)


def no_stamp(rig: Rig, now: int) -> None:
    rig.images["cam_a"].publish(make_image("cam_a", 0))


def future_image(rig: Rig, now: int) -> None:
    rig.images["cam_a"].publish(make_image("cam_a", now + 3600 * SECOND))


def past_image(rig: Rig, now: int) -> None:
    rig.images["cam_a"].publish(make_image("cam_a", now - 3600 * SECOND))


def future_pose(rig: Rig, now: int) -> None:
    rig.odometry.publish(make_pose(now + 3600 * SECOND))


def past_scan(rig: Rig, now: int) -> None:
    rig.radars["radar_a"].publish(make_scan("radar_a", now - 3600 * SECOND))


def same_stamp_twice(rig: Rig, now: int) -> None:
    for _ in range(2):
        rig.images["cam_a"].publish(make_image("cam_a", now + 1))


def nan_radar(rig: Rig, now: int) -> None:
    rig.radars["radar_a"].publish(make_scan("radar_a", now + 1, np.full((5, 6), np.nan)))


def partly_nan_radar(rig: Rig, now: int) -> None:
    points = np.ones((5, 6))
    points[2, 4] = np.nan
    rig.radars["radar_a"].publish(make_scan("radar_a", now + 1, points))


def short_radar(rig: Rig, now: int) -> None:
    message = make_scan("radar_a", now + 1)
    del message.data[10:]
    rig.radars["radar_a"].publish(message)


def nameless_radar(rig: Rig, now: int) -> None:
    message = make_scan("radar_a", now + 1)
    message.fields = [PointField(name=f"f{i}", offset=4 * i, datatype=7, count=1) for i in range(len(RADAR_FIELDS))]
    rig.radars["radar_a"].publish(message)


def nan_pose(rig: Rig, now: int) -> None:
    message = make_pose(now + 1)
    message.pose.pose.position.x = float("nan")
    rig.odometry.publish(message)


def unset_rotation(rig: Rig, now: int) -> None:
    message = make_pose(now + 1)
    message.pose.pose.orientation.w = 0.0
    rig.odometry.publish(message)


def pose_in_map(rig: Rig, now: int) -> None:
    message = make_pose(now + 1)
    message.header.frame_id = "map"
    rig.odometry.publish(message)


def empty_camera_info(rig: Rig, now: int) -> None:
    message = make_info("cam_a", now)
    message.k = [0.0] * 9
    rig.infos["cam_a"].publish(message)


@pytest.mark.parametrize(
    "bad, counter, text",
    [
        (wrong_encoding, "cam_a/image_encoding", "'32FC1' is not one of"),
        (short_data, "cam_a/image_truncated", "100 bytes"),
        (empty_image, "cam_a/image_size", "0x0 pixels"),
        (wrong_step, "cam_a/image_step", "step 7 <"),
        (wrong_size, "cam_a/image_size_differs", "image 48x64, camera_info 64x48"),
        (wrong_frame, "cam_a/wrong_frame", "'cam_b', expected 'cam_a'"),
        (no_stamp, "cam_a/stamp_not_set", "must stamp its messages"),
        (future_image, "cam_a/future_stamp", "ahead of the clock"),
        (past_image, "cam_a/too_old", "behind the clock"),
        (future_pose, "odometry/future_stamp", "ahead of the clock"),
        (past_scan, "radar_a/too_old", "behind the clock"),
        (same_stamp_twice, "cam_a/duplicate", "two publishers"),
        (nan_radar, "radar_a/cloud_not_finite", "all 5 returns"),
        (partly_nan_radar, "radar_a/radar_returns_not_finite", "1 of 5 returns"),
        (short_radar, "radar_a/cloud_truncated", "10 bytes"),
        (nameless_radar, "radar_a/cloud_fields", "set radar_fields"),
        (nan_pose, "odometry/pose_not_finite", "check the odometry source"),
        (unset_rotation, "odometry/pose_rotation", "quaternion"),
        (pose_in_map, "odometry/wrong_frame", "'map', expected 'odom'"),
        (empty_camera_info, "cam_a camera_info/camera_info_matrix", "no pinhole matrix"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_message(running: Running, bad: Callable[[Rig, int], None], counter: str, text: str) -> None:
    process, rig = running
    before = rig.counters().get(counter, 0)

    def named() -> bool:
        return rig.counters().get(counter, 0) > before and text in rig.diagnostic_text()

    rig.drive_until(named, f"{counter} in the status and {text!r} in /diagnostics", bad=lambda now: bad(rig, now))
    assert process.alive()
    found = rig.drive_until_detection()
    assert len(found.detections) > 0
    rig.drive_until(lambda: rig.status.level == PerceptionStatus.OK, "all sensors again after the bad message has gone")


def test_a_bad_sensor_is_invalid_until_it_is_good_again(running: Running) -> None:
    _, rig = running
    rig.drive_until(
        lambda: rig.sensor("cam_b").state == SensorState.INVALID and "image_encoding" in rig.sensor("cam_b").reason,
        "cam_b to be invalid",
        without=("cam_b",),
        bad=lambda now: rig.images["cam_b"].publish(_depth(now)),
    )
    found = rig.drive_until_detection(without=("cam_b",))
    assert "cam_b" in found.sensors_missing and "cam_a" in found.sensors_used
    rig.drive_until(lambda: rig.sensor("cam_b").state == SensorState.OK, "cam_b to be well")


def _depth(now: int) -> Image:
    message = make_image("cam_b", now)
    message.encoding = "32FC1"
    return message


def test_without_poses_there_are_no_detections_and_the_status_says_why(running: Running) -> None:
    _, rig = running
    rig.drive_until(
        lambda: rig.status.level == PerceptionStatus.NO_OUTPUT and "odometry" in rig.status.summary,
        "NO_OUTPUT because of odometry",
        without=("odometry",),
    )
    assert rig.counters()["frame/no_pose"] > 0
    assert rig.sensor("odometry").state == SensorState.MISSING
    assert len(rig.drive_until_detection().detections) > 0


def test_the_status_goes_on_when_everything_stops(running: Running) -> None:
    _, rig = running
    rig.drive_until_detection()
    rig.wait_for(lambda: rig.status.level == PerceptionStatus.NO_OUTPUT, "NO_OUTPUT")
    first = rig.status
    rig.wait_for(lambda: stamp_ns(rig.status.header) > stamp_ns(first.header) + SECOND, "a later status")
    assert {s.state for s in rig.status.sensors} == {SensorState.MISSING}
    assert all(s.age > 1.0 for s in rig.status.sensors)
    rig.drive_until(lambda: rig.status.level == PerceptionStatus.OK, "all well again")


def test_a_vanished_sensor_is_masked_and_named(running: Running) -> None:
    _, rig = running
    found = rig.drive_until(
        lambda: rig.detections and list(rig.detections[-1].sensors_missing) == ["radar_a"] and rig.detections[-1],
        "detections without the radar",
        without=("radar_a",),
    )
    assert list(found.sensors_used) == ["cam_a", "cam_b"]
    rig.drive_until(
        lambda: rig.status.level == PerceptionStatus.DEGRADED and "radar_a" in rig.status.summary,
        "DEGRADED because of the radar",
        without=("radar_a",),
    )
    rig.drive_until(lambda: rig.status.level == PerceptionStatus.OK, "all well again")


def test_a_changed_camera_info_is_noticed(running: Running) -> None:
    _, rig = running
    before = rig.counters().get("cam_a/calibration_changed", 0)
    other = make_info("cam_a", time.time_ns(), focal=61.0)
    rig.infos["cam_a"].publish(other)
    rig.drive_until(lambda: rig.counters().get("cam_a/calibration_changed", 0) > before, "the change to be counted")
    rig.drive_until(lambda: rig.status.last_memory_reset_reason == "calibration_changed", "the memory to be emptied")


def test_message_contents(running: Running) -> None:
    _, rig = running
    found = rig.drive_until_detection()
    spec = rig.spec
    assert found.header.frame_id == "base_link" and found.model_name == spec.name
    assert len(found.model_sha256) == 64
    assert sorted([*found.sensors_used, *found.sensors_missing]) == sorted(spec.cameras + spec.radars)
    scores = [d.score for d in found.detections]
    assert scores == sorted(scores, reverse=True) and all(s >= 0.1 for s in scores)
    for d in found.detections:
        assert spec.classes[d.label] == d.class_name
        q = d.pose.pose.orientation
        assert q.x == q.y == 0 and q.z**2 + q.w**2 == pytest.approx(1.0)
        assert d.dimensions.x > 0 and np.isnan(d.existence_probability)
    stamp = stamp_ns(found.header)

    def of_this_frame() -> object:
        return next((m for m in rig.markers if stamp_ns(m.markers[0].header) == stamp), None)

    markers = rig.drive_until(of_this_frame, "the markers of the frame").markers
    assert markers[0].action == markers[0].DELETEALL
    boxes = [m for m in markers if m.ns == "boxes"]
    assert len(boxes) == len([m for m in markers if m.ns == "labels"]) == len(found.detections)
    for box, d in zip(boxes, found.detections):
        assert (box.scale.x, box.scale.y, box.scale.z) == (d.dimensions.x, d.dimensions.y, d.dimensions.z)
        assert box.lifetime.sec + box.lifetime.nanosec * 1e-9 == pytest.approx(1.0)
    stages = {s.stage: s for s in rig.status.latencies}
    assert list(stages) == ["convert", "wait", "queue", "preprocess", "infer", "decode", "health", "publish", "total"]
    assert all(0 < s.p50_ms <= s.p95_ms <= s.p99_ms <= s.max_ms for s in stages.values())
