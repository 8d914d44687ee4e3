"""Recordings through real DDS: what is played is recorded; the node on recorded time, looped; a real drive."""
# ruff: noqa: E402

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not sourced")
pytest.importorskip("bev_perception_msgs", reason="bev_perception_msgs is not built")
pytest.importorskip("rosbags", reason="rosbags is not installed")
tiny_bundle = pytest.importorskip("tiny_bundle", reason="onnx is not installed")

import rclpy
from lifecycle_msgs.msg import Transition
from nav_msgs.msg import Odometry
from node_rig import (
    NODE,
    NodeProcess,
    Rig,
    default_values,
    environment,
    make_image,
    make_info,
    make_pose,
    make_scan,
    stamp_ns,
    stamped,
)
from rclpy.serialization import serialize_message
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, PointCloud2, PointField

from bev_perception.calibration import save_extrinsics
from bev_perception.geometry import make_transform, rotation_from_quaternion, rotation_from_yaw
from bev_perception.ros import play_bag, record_bag
from bev_perception.ros.record_bag import register_type
from bev_perception_msgs.msg import Detection3D, Detection3DArray, PerceptionStatus, SensorState

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "nuscenes"
EPOCH_NS = 1_600_000_000_000_000_000
Item = tuple[str, int, Any]  # topic, record time, rclpy message


def type_name(message: Any) -> str:
    package, _, kind = type(message).__module__.split(".")[0], "msg", type(message).__name__
    return f"{package}/msg/{kind}"


def write_bag(path: Path, items: list[Item]) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for topic, record_ns, message in sorted(items, key=lambda item: item[1]):
            if topic not in connections:
                register_type(store, type_name(message))
                connections[topic] = writer.add_connection(topic, type_name(message), typestore=store)
            writer.write(connections[topic], record_ns, serialize_message(message))


def read_raw(path: Path) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    with AnyReader([path]) as reader:
        for connection, _, data in reader.messages():
            reader.deserialize(data, connection.msgtype)  # the definitions are in the recording
            found.setdefault(connection.topic, []).append(bytes(data))
    return found


def tool(name: str, arguments: list[Any], env: dict[str, str], folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", f"bev_perception.ros.{name}", *map(str, arguments)]
    log = (folder / f"{name}.log").open("w")
    return subprocess.Popen(command, env=env, cwd=folder, stdout=log, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen, how: int | None = None) -> int:
    if how is not None:
        process.send_signal(how)
    try:
        return process.wait(90)
    finally:
        process.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_what_is_played_is_recorded(tmp_path: Path, how: int) -> None:
    items: list[Item] = []
    for i in range(40):
        at = EPOCH_NS + i * 25_000_000
        truth = Detection3DArray(detections=[Detection3D(class_name="car", id=str(i))] * (i % 3))
        items.append(("/odometry", at, make_pose(at)))
        items.append(("/ground_truth/detections", at, stamped(truth, at, "base_link")))
    write_bag(tmp_path / "drive", items)
    env = environment()
    topics = ["/odometry", "/ground_truth/detections"]
    recorder = tool("record_bag", [tmp_path / "recorded", "--topics", *topics], env, tmp_path)
    player = tool("play_bag", [tmp_path / "drive", "--wait-for-subscribers", 2], env, tmp_path)
    assert finish(player) == 0, (tmp_path / "play_bag.log").read_text()
    assert finish(recorder, how) == 0, (tmp_path / "record_bag.log").read_text()
    assert "Traceback" not in (tmp_path / "record_bag.log").read_text()
    assert read_raw(tmp_path / "recorded") == read_raw(tmp_path / "drive")
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_faults_are_told(tmp_path: Path) -> None:
    write_bag(tmp_path / "drive", [("/odometry", EPOCH_NS, make_pose(EPOCH_NS))])
    env = environment()
    for name, arguments, text in (
        ("play_bag", [tmp_path / "nothing"], "nothing"),
        (
            "play_bag",
            [tmp_path / "drive", "--topics", "/odom"],
            "not in the recording: ['/odom']; it has ['/odometry']",
        ),
        (
            "play_bag",
            [tmp_path / "drive", "--wait-for-subscribers", 1, "--wait-timeout", 0.2],
            "0 of 1 topics have a subscriber",
        ),
        (
            "play_bag",
            [tmp_path / "drive", "--wait-for-node", "/nobody", "--wait-timeout", 0.2],
            "there is no node /nobody (after 0 s)",
        ),
        ("record_bag", [tmp_path / "drive", "--topics", "/odometry"], "exists already"),
    ):
        assert finish(tool(name, arguments, env, tmp_path)) == 1
        log = (tmp_path / f"{name}.log").read_text()
        assert text in log and "Traceback" not in log


def test_what_cannot_be_played_costs_itself_alone(tmp_path: Path) -> None:
    """A cut recording with a topic in another encoding: the rest is played, up to the cut."""
    from bag_copies import copy_bag, cut, the_file

    poses = [("/odometry", EPOCH_NS + i * 1_000_000, make_pose(EPOCH_NS + i * 1_000_000)) for i in range(40)]
    write_bag(tmp_path / "drive", poses)
    bag = copy_bag(tmp_path / "drive", tmp_path / "cut", foreign=("protobuf",))
    cut(the_file(bag), the_file(bag).stat().st_size * 3 // 4)
    assert finish(tool("play_bag", [bag], environment(), tmp_path)) == 0
    log = (tmp_path / "play_bag.log").read_text()
    assert "mcap recover" in log and "/foreign/protobuf is not played: its messages are encoded as 'protobuf'" in log
    assert "played 32 messages" in log and "Traceback" not in log
    assert finish(tool("play_bag", [bag, "--topics", "/foreign/protobuf"], environment(), tmp_path)) == 1
    assert "Traceback" not in (tmp_path / "play_bag.log").read_text()


def test_a_full_disk_ends_a_recording_and_keeps_what_had_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rosbags.rosbag2.storage_mcap import McapWriter

    from bev_perception.evaluation.bag import read_bag

    written: list[int] = []
    write = McapWriter.write

    def full(self: McapWriter, *arguments: Any) -> None:
        write(self, *arguments)
        self.close_chunk()
        written.append(1)
        if len(written) > 5:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(McapWriter, "write", full)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    rclpy.init()
    node = rclpy.create_node("recorder")
    publisher = node.create_publisher(Odometry, "/odometry", 10)
    timer = node.create_timer(0.02, lambda: publisher.publish(make_pose(EPOCH_NS)))
    try:
        with pytest.raises(record_bag.RecordError, match=r"No space left on device.*mcap recover"):
            record_bag.record(node, tmp_path / "out", ["/odometry"])
    finally:
        node.destroy_timer(timer)
        node.destroy_node()
        rclpy.shutdown()
    assert len(list(read_bag(tmp_path / "out", note=lambda text: None))) >= 5
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class Publisher:
    """As much of one as the wait looks at."""

    def __init__(self) -> None:
        self.subscribers = 0

    def get_subscription_count(self) -> int:
        return self.subscribers


def test_the_player_waits_until_its_subscribers_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Discovery is over for a publisher before it is for a subscriber; a subscriber that goes starts the wait anew."""
    monkeypatch.setattr(play_bag, "SETTLE_S", 1.0)
    monkeypatch.setattr(play_bag, "WAIT_PERIOD_S", 0.25)
    now = [0.0]
    monkeypatch.setattr(play_bag.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(play_bag.rclpy, "ok", lambda: True)
    found = {0.5: 1, 1.0: 0, 1.5: 1}  # time -> subscribers from then on
    publisher, told = Publisher(), []

    def sleep(seconds: float) -> None:
        now[0] += seconds
        publisher.subscribers = found.get(now[0], publisher.subscribers)

    monkeypatch.setattr(play_bag.time, "sleep", sleep)
    play_bag.wait_for_subscribers({"/odometry": publisher}, 1, 10.0, lambda: told.append(now[0]))
    assert now[0] == 2.5 and told == [0.25 * i for i in range(11)]
    play_bag.wait_for_subscribers({"/odometry": publisher}, 0, 10.0, lambda: told.append(now[0]))
    assert now[0] == 2.5 and len(told) == 12, "nobody is waited for"
    publisher.subscribers = 0
    with pytest.raises(play_bag.PlayError, match=r"0 of 1 topics .*; none for \['/odometry'\] \(after 3 s\)"):
        play_bag.wait_for_subscribers({"/odometry": publisher}, 1, 3.0)


def test_a_topic_falls_silent_while_the_others_go_on(tmp_path: Path) -> None:
    stamps = [EPOCH_NS + i * 10_000_000 for i in range(40)]
    poses = [("/odometry", at, make_pose(at)) for at in stamps]
    truth = [("/truth", at + 1, stamped(Detection3DArray(), at, "base_link")) for at in stamps]
    write_bag(tmp_path / "drive", [*poses, *truth])
    assert finish(tool("play_bag", [tmp_path / "drive", "--end", "/truth=0.1"], environment(), tmp_path)) == 0
    assert "played 50 messages" in (tmp_path / "play_bag.log").read_text()
    for wrong, told in (("/other=1", "['/other'] cannot fall silent"), ("/truth", "expected TOPIC=SECONDS")):
        assert finish(tool("play_bag", [tmp_path / "drive", "--end", wrong], environment(), tmp_path)) != 0
        log = (tmp_path / "play_bag.log").read_text()
        assert told in log and "Traceback" not in log


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_gap_in_the_recording_can_be_left(tmp_path: Path, how: int) -> None:
    stamps = (EPOCH_NS, EPOCH_NS + 600_000_000_000)
    topic = "/perception/detections"
    write_bag(tmp_path / "drive", [(topic, at, stamped(Detection3DArray(), at, "base_link")) for at in stamps])
    env = environment()
    rig = Rig(tiny_bundle.SPEC, env)
    player = tool("play_bag", [tmp_path / "drive", "--wait-for-subscribers", 1], env, tmp_path)
    try:
        rig.wait_for(lambda: rig.detections, "the message before the gap")
    finally:
        rig.close()
        assert finish(player, how) == 0
    log = (tmp_path / "play_bag.log").read_text()
    assert "played 1 messages" in log and "Traceback" not in log


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Any]:
    """configured(values, spec) -> (process, rig, env) of an active node with use_sim_time."""
    open_now: list[Any] = []

    def start(spec: Any = tiny_bundle.SPEC, **values: Any) -> tuple[NodeProcess, Rig, dict[str, str]]:
        env = environment()
        bundle = tiny_bundle.write_bundle(tmp_path / "bundle", spec=spec)
        common = default_values(bundle.path, spec, tmp_path)
        process = NodeProcess({**common, "use_sim_time": True, **values}, tmp_path, env)
        open_now.append(process)
        rig = Rig(bundle.spec, env)
        open_now.insert(0, rig)
        assert rig.change_state(Transition.TRANSITION_CONFIGURE), process.log.read_text()
        assert rig.change_state(Transition.TRANSITION_ACTIVATE), process.log.read_text()
        return process, rig, env

    yield start
    for thing in open_now:
        thing.close() if isinstance(thing, Rig) else thing.stop()


def test_recorded_time_and_a_loop(tmp_path: Path, configured: Any) -> None:
    """Stamps of years ago are fresh on recorded time; when the recording starts over the node starts over with it."""
    items: list[Item] = []
    for k in range(150):
        at = EPOCH_NS + k * 20_000_000
        items.append(("/odometry", at, make_pose(at)))
        if k % 5 == 0:
            items.append(("/radar/radar_a/points", at, make_scan("radar_a", at)))
            for camera in ("cam_a", "cam_b"):
                items.append((f"/camera/{camera}/image_raw", at, make_image(camera, at)))
                items.append((f"/camera/{camera}/camera_info", at, make_info(camera, at)))
    write_bag(tmp_path / "drive", items)
    process, rig, env = configured()
    rig.images["cam_a"].publish(make_image("cam_a", EPOCH_NS))
    rig.wait_for(lambda: rig.counters().get("cam_a/clock_not_started"), "the missing clock to be named")
    player = tool("play_bag", [tmp_path / "drive", "--clock", "--loop", "--wait-for-node", NODE], env, tmp_path)
    try:

        def rounds() -> int:
            stamps = [stamp_ns(d.header) for d in rig.detections]
            return 1 + sum(b < a for a, b in pairwise(stamps))

        rig.wait_for(lambda: rounds() >= 3, "detections of three rounds", timeout_s=90)
        rig.wait_for(lambda: rig.status.memory_resets >= 2, "two resets of the memory")
        rig.wait_for(lambda: rig.status.last_memory_reset_reason == "time_jump_back", "the reason of the loop")
    finally:
        assert finish(player, signal.SIGINT) == 0
    assert "Traceback" not in (tmp_path / "play_bag.log").read_text()
    for d in rig.detections:
        assert 0 <= stamp_ns(d.header) - EPOCH_NS < 3_000_000_000
    assert not [name for name in rig.counters() if name.endswith("_failed")]
    assert process.alive() and "Traceback" not in process.log.read_text()


def scene_0061() -> tuple[list[Item], dict[str, np.ndarray]]:
    """Front camera, front radar and the ego motion recovered from the radar, as messages; and the extrinsics."""
    rows = json.loads((DATA / "scene-0061_sequence.json").read_text())
    keyframe = json.loads((DATA / "scene-0061_s0.json").read_text())
    rows = [r for r in rows if r.get("cam_front") and (DATA / "cam_front_scene-0061" / r["cam_front"]).exists()]
    K = np.array(keyframe["cams"]["CAM_FRONT"]["cam2img"])[:3, :3]
    items: list[Item] = []
    for row in rows:
        at = int(row["cam_front"].split("__")[-1].split(".")[0]) * 1000
        image = CompressedImage(format="jpeg")
        image.data.frombytes((DATA / "cam_front_scene-0061" / row["cam_front"]).read_bytes())
        info = CameraInfo(width=1600, height=900, k=K.ravel().tolist())
        items.append(("/camera/cam_front/image_raw/compressed", at, stamped(image, at, "cam_front")))
        items.append(("/camera/cam_front/camera_info", at, stamped(info, at, "cam_front")))
        at = int(row["radar_front_csv"].split("__")[-1].split(".")[0]) * 1000
        items.append(("/radar/radar_front/points", at, radar_cloud(DATA / "radar_front" / row["radar_front_csv"], at)))
    times = np.array([row["timestamp_us"] for row in rows]) * 1000
    speeds, rates = (np.array([row[key] for row in rows]) for key in ("ego_vx_mps", "ego_yawrate_radps"))
    odom_from_ego, step_ns = np.eye(4), 20_000_000
    for at in range(int(times[0]) - 200_000_000, int(times[-1]) + 200_000_000, step_ns):
        v, w = np.interp(at, times, speeds), np.interp(at, times, rates)
        items.append(("/odometry", at, odometry(at, odom_from_ego, v, w)))
        dt = step_ns / 1e9
        odom_from_ego = odom_from_ego @ make_transform(rotation_from_yaw(w * dt), np.array([v * dt, 0.0, 0.0]))
    rigs = json.loads((DATA / "rigs.json").read_text())
    rig = next(r for prefix, r in rigs.items() if prefix.startswith("n015"))
    poses = {
        name: make_transform(
            rotation_from_quaternion(np.array(rig[name]["rotation"])), np.array(rig[name]["translation"])
        )
        for name in ("CAM_FRONT", "CAM_BACK", "RADAR_FRONT")
    }
    return items, poses


def radar_cloud(path: Path, at: int) -> PointCloud2:
    with path.open() as file:
        rows = [[float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]]
        file.seek(0)
        names = next(csv.reader(file))[1:]
    message = PointCloud2(height=1, width=len(rows), point_step=4 * len(names), row_step=4 * len(names) * len(rows))
    message.fields = [PointField(name=n, offset=4 * i, datatype=7, count=1) for i, n in enumerate(names)]
    message.data.frombytes(np.array(rows, "<f4").tobytes())
    return stamped(message, at, "radar_front")


def odometry(at: int, odom_from_ego: np.ndarray, v: float, w: float) -> Odometry:
    message = stamped(Odometry(child_frame_id="base_link"), at, "odom")
    message.pose.pose.position.x, message.pose.pose.position.y = float(odom_from_ego[0, 3]), float(odom_from_ego[1, 3])
    yaw = np.arctan2(odom_from_ego[1, 0], odom_from_ego[0, 0])
    message.pose.pose.orientation.z, message.pose.pose.orientation.w = float(np.sin(yaw / 2)), float(np.cos(yaw / 2))
    message.twist.twist.linear.x, message.twist.twist.angular.z = float(v), float(w)
    return message


@pytest.mark.skipif(not DATA.is_dir(), reason="the real recordings (../shared/data) are not here")
def test_a_real_drive_goes_through_the_node(tmp_path: Path, configured: Any) -> None:
    """nuScenes scene-0061, front camera and front radar at 2 Hz; the second camera of the model stays masked."""
    items, poses = scene_0061()
    write_bag(tmp_path / "drive", items)
    save_extrinsics(tmp_path / "rig.yaml", "base_link", poses)
    spec = replace(tiny_bundle.SPEC, cameras=("CAM_BACK", "CAM_FRONT"), radars=("RADAR_FRONT",))
    process, rig, env = configured(
        spec,
        **{
            "extrinsics.file": str(tmp_path / "rig.yaml"),
            "sync.period_ms": 500.0,
            "cameras.CAM_FRONT.compressed": True,
            "cameras.CAM_FRONT.topic": "/camera/cam_front/image_raw/compressed",
        },
    )
    arguments = [tmp_path / "drive", "--clock", "--rate", 2, "--wait-for-subscribers", 4]
    player = tool("play_bag", arguments, env, tmp_path)
    images = [stamp_ns(m.header) for topic, _, m in items if topic.endswith("compressed")]
    rig.wait_for(lambda: player.poll() is not None, "the end of the recording", timeout_s=90)
    assert finish(player) == 0, (tmp_path / "play_bag.log").read_text()
    rig.spin(1.0)
    found = {stamp_ns(d.header): d for d in rig.detections}
    # The last frames wait for a pose or a deadline that the end of the recorded time cuts off.
    assert len(set(found) & set(images)) >= len(images) - 4, f"{len(found)} of {len(images)}: {rig.counters()}"
    for d in list(found.values())[2:]:
        assert list(d.sensors_used) == ["CAM_FRONT", "RADAR_FRONT"] and list(d.sensors_missing) == ["CAM_BACK"]
    assert sum(d.temporal_used for d in found.values()) >= len(found) - 3
    assert rig.sensor("CAM_BACK").state == SensorState.NEVER_SEEN
    assert rig.status.level in (PerceptionStatus.DEGRADED, PerceptionStatus.NO_OUTPUT)
    allowed = ("CAM_BACK/", "frame/", "CAM_FRONT/", "RADAR_FRONT/")
    assert all(name.startswith(allowed) for name in rig.counters()), rig.counters()
    assert not [n for n in rig.counters() if "failed" in n or "image" in n or "cloud" in n or "stamp" in n]
    assert process.alive() and "Traceback" not in process.log.read_text()
