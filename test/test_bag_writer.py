"""The rosbag2 writer: read back with rosbags, every topic is what the rig and the world say."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import cv2
import numpy as np
import pytest

pytest.importorskip("trimesh", reason="the synthetic world needs trimesh and embreex")
pytest.importorskip("rosbags", reason="needs rosbags")

from references import yaw_of
from rosbags.highlevel import AnyReader
from town_drive import SETTINGS

from bev_perception.geometry import invert, rotation_from_quaternion, transform_points
from training.tables.files import RADAR_DTYPE
from training.world.__main__ import main
from training.world.bag_rig import POLAR_DTYPE
from training.world.bag_writer import LATENCY_NS, BagSettings, _odometry, topic, write_bag
from training.world.generate import Scan, epoch_ns, take, world_of
from training.world.rig import RIG, stamps
from training.world.shot import scaled_K

TINY = BagSettings(seed=902, duration_s=1.0, scale=0.04, image_format="jpeg")
CAMERAS = [name for name, mount in RIG.items() if mount.kind == "camera"]
RADARS = [name for name, mount in RIG.items() if mount.kind == "radar"]
_NUMPY = {1: "i1", 3: "<i2", 4: "<u2", 7: "<f4"}


def _read(path):
    """topic -> [(record time ns, message)] in the order of the file; also the flat list of record times."""
    found: dict[str, list] = {}
    records = []
    with AnyReader([path]) as reader:
        for connection, record_ns, data in reader.messages():
            found.setdefault(connection.topic, []).append((record_ns, reader.deserialize(data, connection.msgtype)))
            records.append(record_ns)
    return found, records


@pytest.fixture(scope="module")
def bag(town_bag):
    return _read(town_bag)


@pytest.fixture(scope="module")
def world():
    return world_of(SETTINGS.seed, SETTINGS.duration_s)


def _stamp(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec - epoch_ns(SETTINGS.seed)


def _array(cloud):
    dtype = np.dtype(
        {
            "names": [f.name for f in cloud.fields],
            "formats": [_NUMPY[f.datatype] for f in cloud.fields],
            "offsets": [f.offset for f in cloud.fields],
            "itemsize": cloud.point_step,
        }
    )
    assert cloud.row_step == len(cloud.data) == cloud.point_step * cloud.width and cloud.height == 1
    return np.frombuffer(cloud.data.tobytes(), dtype)


def _matrix(translation, rotation):
    matrix = np.eye(4)
    matrix[:3, :3] = rotation_from_quaternion([rotation.w, rotation.x, rotation.y, rotation.z])
    matrix[:3, 3] = [translation.x, translation.y, translation.z]
    return matrix


def test_every_sensor_is_there_at_its_rate_with_its_own_stamps(bag):
    topics, records = bag
    assert records == sorted(records)
    end = round(SETTINGS.duration_s * 1e9)
    kinds = {"camera": "raw", "radar": "radar", "lidar": "lidar"}
    for name, mount in RIG.items():
        found = topics[topic(kinds[mount.kind], name)[0]]
        assert [_stamp(message) for _, message in found] == [t for t in stamps(mount, 0, end + 1) if 0 < t <= end]
        assert len(found) == pytest.approx(mount.rate_hz * SETTINGS.duration_s, abs=1)
        for record_ns, message in found:
            assert message.header.frame_id == name.lower()
            assert record_ns - epoch_ns(SETTINGS.seed) - _stamp(message) == LATENCY_NS[mount.kind]
    assert len(topics["/odometry"]) == len(topics["/tf"]) == 51
    expected = {topic("raw", c)[0] for c in CAMERAS} | {topic("camera_info", c)[0] for c in CAMERAS}
    expected |= {topic("radar", c)[0] for c in RADARS} | {"/lidar/top/points", "/odometry", "/tf", "/tf_static"}
    assert set(topics) == expected | {"/ground_truth/detections"}


def test_images_and_camera_info(bag, world):
    topics, _ = bag
    for name in CAMERAS:
        images, infos = topics[topic("raw", name)[0]], topics[topic("camera_info", name)[0]]
        assert [_stamp(m) for _, m in images] == [_stamp(m) for _, m in infos]
        message, info = images[-1][1], infos[-1][1]
        rendered = take(world, Scan(name, _stamp(message)), SETTINGS.seed, SETTINGS.scale).bgr
        assert message.encoding == "bgr8" and message.step == 3 * message.width
        np.testing.assert_array_equal(message.data.reshape(message.height, message.width, 3), rendered)
        assert (info.height, info.width) == rendered.shape[:2] and info.header.frame_id == name.lower()
        np.testing.assert_allclose(info.k.reshape(3, 3), scaled_K(RIG[name].K, SETTINGS.scale))
        np.testing.assert_allclose(info.p.reshape(3, 4)[:, :3], info.k.reshape(3, 3))
        assert not info.d.any()


def test_clouds_hold_the_scans(bag, world):
    topics, _ = bag
    for name in RADARS:
        message = topics[topic("radar", name)[0]][-1][1]
        returns = take(world, Scan(name, _stamp(message)), SETTINGS.seed, SETTINGS.scale)
        cloud = _array(message)
        assert cloud.dtype == RADAR_DTYPE and len(cloud) == len(returns)
        for field in RADAR_DTYPE.names:
            np.testing.assert_array_equal(cloud[field], returns[field])
    message = topics["/lidar/top/points"][-1][1]
    sweep = take(world, Scan("LIDAR_TOP", _stamp(message)), SETTINGS.seed, SETTINGS.scale)
    cloud = _array(message)
    for column, field in enumerate(("x", "y", "z", "intensity", "ring")):
        np.testing.assert_array_equal(cloud[field], sweep.points[:, column])


def test_static_transforms_are_the_rig_and_come_first(bag):
    topics, records = bag
    ((record_ns, message),) = topics["/tf_static"]
    assert record_ns == records[0]
    found = {t.child_frame_id: t for t in message.transforms}
    assert set(found) == {name.lower() for name in RIG}
    for name, mount in RIG.items():
        transform = found[name.lower()]
        assert transform.header.frame_id == "base_link"
        matrix = _matrix(transform.transform.translation, transform.transform.rotation)
        np.testing.assert_allclose(matrix, mount.ego_from_sensor, atol=1e-9)


def test_odometry_and_tf_are_the_worlds_motion(bag, world):
    topics, _ = bag
    poses = []
    for (_, odometry), (_, tf) in zip(topics["/odometry"], topics["/tf"]):
        stamp = _stamp(odometry)
        pose = _matrix(odometry.pose.pose.position, odometry.pose.pose.orientation)
        np.testing.assert_allclose(pose, world.ego_pose(stamp), atol=1e-9)
        assert (odometry.header.frame_id, odometry.child_frame_id) == ("odom", "base_link")
        (transform,) = tf.transforms
        assert (transform.header.frame_id, transform.child_frame_id) == ("odom", "base_link")
        assert _stamp(transform) == stamp
        np.testing.assert_allclose(_matrix(transform.transform.translation, transform.transform.rotation), pose)
        poses.append((stamp, pose, odometry.twist.twist))
    # the twist is the derivative of the pose, in base_link
    for (t0, before, _), (_, pose, twist), (t1, after, _) in zip(poses, poses[1:], poses[2:]):
        moved = pose[:3, :3].T @ (after[:3, 3] - before[:3, 3]) * 1e9 / (t1 - t0)
        np.testing.assert_allclose(moved[:2], [twist.linear.x, twist.linear.y], atol=0.15)
        turned = yaw_of(before[:3, :3].T @ after[:3, :3]) * 1e9 / (t1 - t0)
        assert turned == pytest.approx(twist.angular.z, abs=0.05)


def test_ground_truth_is_the_worlds_actors_in_base_link(bag, world):
    topics, _ = bag
    truth = [message for _, message in topics["/ground_truth/detections"]]
    assert [_stamp(m) for m in truth] == [_stamp(m) for _, m in topics[topic("raw", "CAM_BACK_LEFT")[0]]]
    boxes = 0
    for message in truth:
        stamp = _stamp(message)
        world_from_ego = world.ego_pose(stamp)
        ego_from_world = invert(world_from_ego)
        states = {str(s.track_id): s for s in world.actor_states(stamp)}
        assert message.header.frame_id == "base_link"
        for box in message.detections:
            state = states[box.id]
            assert (box.class_name, box.attribute) == (state.name, state.attribute)
            pose = _matrix(box.pose.pose.position, box.pose.pose.orientation)
            np.testing.assert_allclose(pose[:3, 3], transform_points(ego_from_world, state.center[None])[0], atol=1e-9)
            in_world = yaw_of(world_from_ego[:3, :3] @ pose[:3, :3])
            assert np.cos(in_world - state.yaw) > 1 - 1e-9
            size = box.dimensions
            np.testing.assert_allclose([size.x, size.y, size.z], state.size_lwh)
            linear = box.twist.twist.linear
            velocity = world_from_ego[:3, :3] @ [linear.x, linear.y, linear.z]
            np.testing.assert_allclose(velocity, state.velocity, atol=1e-9)
            boxes += 1
    assert boxes > len(truth)
    # seen by a camera: in the list
    last = truth[-1]
    image = take(world, Scan("CAM_BACK_LEFT", _stamp(last)), SETTINGS.seed, SETTINGS.scale)
    seen = {str(track) for track in np.unique(image.instance) if track >= 0}
    near = {str(s.track_id) for s in world.actor_states(_stamp(last), 80.0)}
    assert seen & near <= {box.id for box in last.detections}


def _hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def tiny_bag(tmp_path_factory):
    """Written by one worker, alone in its folder; no test changes it."""
    path = tmp_path_factory.mktemp("tiny_bag") / "drive.mcap"
    write_bag(path, TINY, workers=1)
    return path


def test_same_seed_same_bytes_with_one_worker_or_two(tiny_bag, tmp_path, capsys):
    write_bag(tmp_path / "drive.mcap", TINY, workers=2)
    assert _hashes(tiny_bag) == _hashes(tmp_path / "drive.mcap")
    assert [p.name for p in tiny_bag.parent.iterdir()] == ["drive.mcap"], "nothing temporary may stay"
    with pytest.raises(FileExistsError, match="exists already"):
        write_bag(tiny_bag, TINY)
    assert main(["bag", str(tiny_bag)]) == 1
    assert "exists already" in capsys.readouterr().err
    topics, _ = _read(tiny_bag)
    assert not any("lidar" in name for name in topics)
    message = topics[topic("jpeg", "CAM_FRONT")[0]][0][1]
    stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec - epoch_ns(TINY.seed)
    rendered = take(world_of(TINY.seed, TINY.duration_s), Scan("CAM_FRONT", stamp), TINY.seed, TINY.scale).bgr
    decoded = cv2.imdecode(message.data, cv2.IMREAD_COLOR)
    assert "jpeg" in message.format and decoded.shape == rendered.shape
    assert np.abs(decoded.astype(int) - rendered).mean() < 8


def test_an_existing_bag_survives_a_failing_overwrite(tiny_bag, tmp_path):
    before = _hashes(tiny_bag)
    with pytest.raises(ValueError):
        write_bag(tiny_bag, BagSettings(seed=902, duration_s=0.1), overwrite=True)
    assert _hashes(tiny_bag) == before and [p.name for p in tiny_bag.parent.iterdir()] == ["drive.mcap"]
    with pytest.raises(ValueError, match="image format"):
        write_bag(tmp_path / "other", BagSettings(image_format="png"))


def test_odometry_noise_drifts_and_is_off_by_default(world):
    exact = list(_odometry(world, SETTINGS))
    noisy = list(_odometry(world, BagSettings(seed=901, duration_s=1.0, odometry_noise=1.0)))
    gaps = [np.linalg.norm(a[1][:3, 3] - b[1][:3, 3]) for a, b in zip(exact, noisy)]
    assert gaps[0] == 0 and 0 < gaps[-1] < 0.5
    assert [a[0] for a in exact] == [b[0] for b in noisy]


def test_a_rig_of_other_names_measures_the_same(tmp_path):
    settings = replace(TINY, image_format="raw", rig="other")
    write_bag(tmp_path / "other", settings, workers=1)
    topics, _ = _read(tmp_path / "other")
    cameras = {
        f"/sensing/{name}/{end}"
        for name in ("front", "left", "right", "rear")
        for end in ("image_color", "camera_info")
    }
    other = {"/sensing/radar/bumper", "/sensing/radar/tail", "/wheels/odometry", "/tf", "/tf_static"}
    assert set(topics) == cameras | other | {"/ground_truth/detections"}
    assert topics["/sensing/rear/image_color"][0][1].header.frame_id == "rear_optical"
    cloud = topics["/sensing/radar/bumper"][-1][1]
    polar = np.frombuffer(cloud.data.tobytes(), POLAR_DTYPE)
    listed = np.asarray(take(world_of(902, 1.0), Scan("RADAR_FRONT", _stamp_of(cloud, 902)), 902, TINY.scale))
    np.testing.assert_allclose(
        polar["range"] * np.cos(polar["elevation"]) * np.cos(polar["azimuth"]), listed["x"], atol=1e-4
    )
    np.testing.assert_allclose(
        polar["range"] * np.cos(polar["elevation"]) * np.sin(polar["azimuth"]), listed["y"], atol=1e-4
    )
    along = (listed["x"] * listed["vx"] + listed["y"] * listed["vy"]) / np.hypot(listed["x"], listed["y"])
    np.testing.assert_allclose(polar["radial_speed"], along, atol=1e-4)
    with pytest.raises(ValueError, match="rig must be one of nuscenes, other"):
        write_bag(tmp_path / "none", replace(TINY, rig="none"))


def _stamp_of(message, seed):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec - epoch_ns(seed)


def test_fewer_scans_are_kept_where_that_is_asked_for(tmp_path):
    """Two images a second of each camera, each the newest at its tick; the truth comes with them."""
    out = tmp_path / "thin"
    assert main(["bag", str(out), "--duration", "1", "--scale", "0.04", "--camera-hz", "2", "--workers", "1"]) == 0
    found, _ = _read(out)
    counts = {name: len(messages) for name, messages in found.items()}
    assert {counts[topic("raw", name)[0]] for name in CAMERAS} == {2}
    assert {counts[topic("radar", name)[0]] for name in RADARS} == {len(stamps(RIG[RADARS[0]], 1, 10**9 + 1))}
    anchors = [_seconds(message) for _, message in found[topic("raw", "CAM_BACK_LEFT")[0]]]
    assert anchors == [_seconds(message) for _, message in found[topic("ground_truth")[0]]]


def _seconds(message):
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
