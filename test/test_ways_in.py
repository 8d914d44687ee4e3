"""One drive told in other ways: radar_msgs, poses and twists, tf, fewer sensors. From the bag, and over real DDS."""
# ruff: noqa: E402

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is part of the evaluation extra")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")
import tiny_drive
from other_messages import OtherMessages, Row, rewrite_bag, store_with_radars
from replays import replay

from bev_perception.bags.recording import open_bag
from bev_perception.calibration import save_extrinsics
from bev_perception.conversions import read_points
from bev_perception.evaluation import frames
from bev_perception.measurements import Measurements
from bev_perception.parameters import NodeConfig, ParameterError, load_config
from bev_perception.sensors.intake import SensorIntake, message_types
from bev_perception.structures import SensorFrame
from bev_perception.sync import FrameSynchronizer

MAKE = OtherMessages(store_with_radars())
STAMPS = tiny_drive.anchor_stamps()
Drive = tuple[Path, Path]  # bundle, bag


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    folder = tmp_path_factory.mktemp("drive")
    return tiny_bundle.write_bundle(folder / "bundle").path, tiny_drive.write_drive(folder / "bag")


def config_of(drive: Drive, folder: Path, **values: Any) -> NodeConfig:
    return load_config(drive[0], tiny_drive.write_params(folder / "params.yaml", **values))


def frames_of(bag: Path, config: NodeConfig) -> tuple[list[SensorFrame], dict[str, int]]:
    taken = Measurements(config.sync_config(tiny_bundle.SPEC))
    intake, synchronizer = SensorIntake(config, taken), FrameSynchronizer(taken)
    with open_bag(bag) as recording:
        found = [frame for _, frame in frames.frames_of(recording, config, intake, synchronizer)]
    return found, dict(+taken.counters)


def stamp_of(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def radar_as(make: Callable[[int, np.ndarray], Row]) -> Callable[[str, int, Any], list[Row] | None]:
    """make(stamp, (P, 5) x y z vx vy) -> what the radar sends in place of the cloud."""

    def change(topic: str, record_ns: int, message: Any) -> list[Row] | None:
        if topic != "/radar/radar_a/points":
            return None
        cloud = read_points(message)
        points = np.stack([cloud[name].astype(float) for name in ("x", "y", "z", "vx_comp", "vy_comp")], axis=1)
        return [make(stamp_of(message), points)]

    return change


def as_scan(stamp_ns: int, points: np.ndarray) -> Row:
    distance = np.linalg.norm(points[:, :3], axis=1)
    azimuth, elevation = np.arctan2(points[:, 1], points[:, 0]), np.arcsin(points[:, 2] / distance)
    doppler = (points[:, :2] * points[:, 3:]).sum(axis=1) / distance
    rows = np.stack([distance, azimuth, elevation, doppler, np.zeros(len(points))], axis=1)
    return "/radar/radar_a/points", "radar_msgs/msg/RadarScan", MAKE.radar_scan(stamp_ns, "radar_a", rows)


def as_tracks(stamp_ns: int, points: np.ndarray) -> Row:
    rows = np.hstack([points, np.zeros((len(points), 1))])
    return "/radar/radar_a/points", "radar_msgs/msg/RadarTracks", MAKE.radar_tracks(stamp_ns, "radar_a", rows)


@pytest.mark.parametrize(("kind", "row"), [("scan", as_scan), ("tracks", as_tracks)])
def test_a_recording_with_radar_msgs_is_read_by_its_own_definitions(
    drive: Drive, tmp_path: Path, kind: str, row: Callable[[int, np.ndarray], Row]
) -> None:
    bag = rewrite_bag(drive[1], tmp_path / "bag", radar_as(row))
    original, _ = frames_of(drive[1], config_of(drive, tmp_path))
    found, counted = frames_of(bag, config_of(drive, tmp_path, radars__radar_a__kind=kind))
    assert counted == {} and len(found) == len(original) == len(STAMPS)
    for here, there in zip(found, original):
        for a, b in zip(here.radars[0], there.radars[0], strict=True):
            assert a.scan.stamp_ns == b.scan.stamp_ns and not a.scan.compensated
            assert a.scan.points[:, :3] == pytest.approx(b.scan.points[:, :3], abs=1e-4)
            ray = b.scan.points[:, :3] / np.linalg.norm(b.scan.points[:, :3], axis=1)[:, None]
            radial = (b.scan.points[:, 4:] * ray[:, :2]).sum(axis=1)[:, None] * ray[:, :2]
            assert a.scan.points[:, 4:] == pytest.approx(radial, abs=1e-4)


def test_a_radar_of_another_kind_than_the_parameters_say_is_refused(drive: Drive, tmp_path: Path) -> None:
    bag = rewrite_bag(drive[1], tmp_path / "bag", radar_as(as_scan))
    config = config_of(drive, tmp_path, radars__radar_a__kind="scan", radars__radar_a__fields__layout="cartesian")
    found, counted = frames_of(bag, config)
    assert len(found) == len(STAMPS) and not any(frame.radars[0] for frame in found)
    assert counted["radar_a/cloud_fields"] > 10


def as_pose_and_twist(topic: str, record_ns: int, message: Any) -> list[Row] | None:
    if topic != "/odometry":
        return None
    stamp, twist = stamp_of(message), message.twist.twist
    pose = MAKE.make("geometry_msgs/PoseStamped", header=message.header, pose=message.pose.pose)
    header = MAKE.header(stamp, "base_link")
    twist = MAKE.make("geometry_msgs/TwistStamped", header=header, twist=twist)
    return [
        ("/twist", "geometry_msgs/msg/TwistStamped", twist),
        ("/pose", "geometry_msgs/msg/PoseStamped", pose),
    ]


def as_tf(topic: str, record_ns: int, message: Any) -> list[Row] | None:
    if topic != "/odometry":
        return None
    stamp = stamp_of(message)
    pose = tiny_drive.ego_pose(stamp)
    return [("/tf", "tf2_msgs/msg/TFMessage", MAKE.transforms(stamp, "odom", {"base_link": pose}))]


@pytest.mark.parametrize(("source", "change"), [("pose_twist", as_pose_and_twist), ("tf", as_tf)])
def test_ego_motion_told_in_another_way_is_the_same(
    drive: Drive, tmp_path: Path, source: str, change: Callable[[str, int, Any], list[Row] | None]
) -> None:
    bag = rewrite_bag(drive[1], tmp_path / "bag", change)
    original, _ = frames_of(drive[1], config_of(drive, tmp_path))
    found, counted = frames_of(bag, config_of(drive, tmp_path, odometry__source=source))
    assert counted == {} and [f.stamp_ns for f in found] == [f.stamp_ns for f in original]
    for here, there in zip(found, original):
        poses = zip([here.ego, *(v.ego for v in here.cameras)], [there.ego, *(v.ego for v in there.cameras)])
        for a, b in poses:
            assert a.odom_from_ego == pytest.approx(b.odom_from_ego, abs=1e-9)
            assert a.linear == pytest.approx(b.linear, abs=1e-6) and a.angular == pytest.approx(b.angular, abs=1e-6)


def with_speed_in_kmh(topic: str, record_ns: int, message: Any) -> list[Row] | None:
    if topic == "/odometry":
        message.twist.twist.linear.x *= 3.6
    return None


def test_a_twist_in_kmh_is_named_and_that_of_the_poses_used(drive: Drive, tmp_path: Path) -> None:
    bag = rewrite_bag(drive[1], tmp_path / "bag", with_speed_in_kmh)
    found, counted = frames_of(bag, config_of(drive, tmp_path))
    assert counted["odometry/twist_disagrees"] > 20
    assert [bool(f.ego.linear[0] == pytest.approx(3.0)) for f in found][3:] == [True] * (len(STAMPS) - 3)


def test_sensors_that_the_vehicle_does_not_have(drive: Drive, tmp_path: Path) -> None:
    """They need no topic, no calibration and no waiting; the network sees them masked, and nothing is counted."""
    save_extrinsics(tmp_path / "calibration.yaml", "base_link", {"cam_b": tiny_drive.EGO_FROM_CAM})
    fewer = config_of(
        drive, tmp_path, absent=["cam_a", "radar_a"], extrinsics__source="file",
        extrinsics__file=str(tmp_path / "calibration.yaml"),
    )  # fmt: skip
    assert list(fewer.cameras) == ["cam_b"] and fewer.radars == {}
    intake = SensorIntake(fewer, Measurements(fewer.sync_config(tiny_bundle.SPEC)))
    assert {source.topic for source in intake.sources} == {
        "/camera/cam_b/image_raw",
        "/camera/cam_b/camera_info",
        "/odometry",
    }
    result = replay(drive[1], drive[0], fewer)
    silent = config_of(drive, tmp_path / "silent")
    gone = {"/camera/cam_a/image_raw", "/radar/radar_a/points"}
    bag = rewrite_bag(drive[1], tmp_path / "bag", lambda topic, *_: [] if topic in gone else None)
    expected = replay(bag, drive[0], silent)
    assert len(result.detections) == len(STAMPS)
    later = {d.stamp_ns: d for _, d in expected.detections}
    for record_ns, detections in result.detections:
        assert detections.missing == {"cam_a": "absent", "radar_a": "absent"}
        assert detections.sensors_used == ("cam_b",)
        assert record_ns - detections.stamp_ns < 60 * tiny_drive.MS  # nobody is waited for
        same = later[detections.stamp_ns]
        assert detections.scores.tobytes() == same.scores.tobytes()
        assert detections.boxes.tobytes() == same.boxes.tobytes()
    assert not [name for name in result.counters if "cam_a" in name or "radar_a" in name]


def test_the_anchor_is_a_camera_that_is_there(drive: Drive, tmp_path: Path) -> None:
    offsets = {"cameras__cam_a__offset_ms": 0.0}
    assert config_of(drive, tmp_path, absent=["cam_b"], **offsets).anchor == "cam_a"
    found, _ = frames_of(drive[1], config_of(drive, tmp_path, absent=["cam_b"], **offsets))
    assert [f.stamp_ns for f in found] == [t + tiny_drive.OFFSETS["cam_a"] for t in STAMPS]
    radars = config_of(drive, tmp_path, absent=["cam_a", "cam_b"])
    assert radars.anchor == ""
    found, _ = frames_of(drive[1], radars)
    assert len(found) >= 9 and all(frame.radars[0] for frame in found)


@pytest.mark.parametrize(
    ("absent", "more", "part"),
    [
        (["cam_c"], {}, "absent: 'cam_c' is no sensor of the bundle (cam_a, cam_b, radar_a); did you mean"),
        (["cam_a", "cam_b", "radar_a"], {}, "at least one must be there"),
        (["cam_b"], {"anchor": "cam_b"}, "anchor: 'cam_b' is absent"),
    ],
)
def test_absences_that_cannot_be(drive: Drive, tmp_path: Path, absent: list[str], more: dict, part: str) -> None:
    with pytest.raises(ParameterError) as error:
        config_of(drive, tmp_path, absent=absent, cameras__cam_a__offset_ms=0.0, **more)
    assert part in str(error.value)


def test_message_types_that_are_asked_for(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of other packages than sensor_msgs are looked for before anything is subscribed."""
    config = config_of(drive, tmp_path, radars__radar_a__kind="tracks", odometry__source="tf")
    assert list(message_types(config)) == ["tf2_msgs/msg/TFMessage", "radar_msgs/msg/RadarTracks"]
    assert list(message_types(dataclasses.replace(config, radars={}))) == ["tf2_msgs/msg/TFMessage"]
    pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
    pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not installed")
    from bev_perception.ros.inputs import check_message_types

    monkeypatch.setitem(sys.modules, "radar_msgs.msg", None)
    with pytest.raises(ImportError) as error:
        check_message_types(config)
    assert str(error.value) == (
        "radars.radar_a.kind is `tracks`, but the package radar_msgs is not installed; install "
        "ros-<distro>-radar-msgs, or let the radar publish another kind"
    )


@pytest.mark.parametrize(("source", "change"), [("pose_twist", as_pose_and_twist), ("tf", as_tf)])
def test_the_node_and_the_replay_find_the_same(
    drive: Drive,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    change: Callable[[str, int, Any], list[Row] | None],
) -> None:
    """Bit for bit, with messages of rclpy there and of rosbags here."""
    for name in ("rclpy", "bev_perception_msgs", "radar_msgs", "tf2_msgs"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    from test_live_and_replay import content, live_node, run_live

    from bev_perception.bundle import load_bundle
    from bev_perception.messages import PUBLISHERS, Output

    scan = radar_as(as_scan)
    bag = rewrite_bag(drive[1], tmp_path / "bag", lambda *row: change(*row) or scan(*row))
    config = config_of(drive, tmp_path, odometry__source=source, radars__radar_a__kind="scan")
    monkeypatch.setitem(PUBLISHERS, "keeper", Output("nowhere", "no_package/msg/Nothing", lambda found, context: found))
    with live_node(monkeypatch) as node:
        live = run_live(node, bag, load_bundle(drive[0]), config, let_go_ns=0)
    offline = replay(bag, drive[0], config)
    assert len(live.detections) == len(STAMPS) and live.counters == dict(offline.counters)
    for there, (_, here) in zip(live.detections, offline.detections, strict=True):
        assert content(there) == content(here) and here.sensors_used == ("cam_a", "cam_b", "radar_a")


def test_a_node_with_tf_a_radar_scan_and_a_camera_less(tmp_path: Path) -> None:
    """Over real DDS: detections, a status that is OK, and the absent camera in it as what it is."""
    for name in ("rclpy", "bev_perception_msgs.msg", "radar_msgs.msg", "tf2_msgs.msg"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    from geometry_msgs.msg import TransformStamped
    from lifecycle_msgs.msg import Transition
    from node_rig import SPEED_MPS, make_pose, running_node, stamped
    from radar_msgs.msg import RadarReturn, RadarScan
    from tf2_msgs.msg import TFMessage

    from bev_perception_msgs.msg import PerceptionStatus, SensorState

    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    values = {"absent": ["cam_a"], "odometry.source": "tf", "radars.radar_a.kind": "scan"}
    with running_node(tmp_path, bundle.path, bundle.spec, **values) as (process, rig):
        # of the calibration file no entry of the absent camera is asked
        only = {"cam_b": tiny_drive.EGO_FROM_CAM, "radar_a": tiny_drive.EGO_FROM_RADAR}
        save_extrinsics(tmp_path / "calibration.yaml", "base_link", only)
        assert rig.change_state(Transition.TRANSITION_CONFIGURE), process.log.read_text()
        assert rig.change_state(Transition.TRANSITION_ACTIVATE), process.log.read_text()
        assert "listening to 1 cameras, 1 radars" in process.log.read_text()
        tf = rig.node.create_publisher(TFMessage, "/tf", 50)
        rig.node.destroy_publisher(rig.radars["radar_a"])
        rig.radars.clear()
        radar = rig.node.create_publisher(RadarScan, "/radar/radar_a/points", 10)

        def speak(now: int) -> None:
            returns = [RadarReturn(range=5.0, azimuth=0.1 * k, doppler_velocity=-SPEED_MPS) for k in range(5)]
            radar.publish(stamped(RadarScan(returns=returns), now, "radar_a"))
            pose = make_pose(now).pose.pose
            transform = stamped(TransformStamped(child_frame_id="base_link"), now, "odom")
            transform.transform.translation.x = pose.position.x
            tf.publish(TFMessage(transforms=[transform]))

        def driving_well() -> bool:
            return rig.status.level == PerceptionStatus.OK and rig.status.frames_processed > 3

        rig.drive_until(driving_well, "a status without a fault", without=("odometry", "cam_a"), bad=speak)
        assert rig.sensor("cam_a").state == SensorState.ABSENT and rig.sensor("cam_a").reason == "absent"
        assert set(rig.detections[-1].sensors_used) == {"cam_b", "radar_a"}
        assert list(rig.detections[-1].sensors_missing) == ["cam_a"]
        assert "Traceback" not in process.log.read_text()
