"""A drive through the synthetic town, recorded and made a data set: the world is what comes out at the other end."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

devkit = pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")
pytest.importorskip("trimesh", reason="the synthetic world needs trimesh and embreex")

from bag_copies import rows_of  # noqa: E402
from nuscenes.utils.data_classes import LidarPointCloud, RadarPointCloud  # noqa: E402
from references import yaw_of  # noqa: E402
from town_drive import SETTINGS  # noqa: E402

from bev_perception.bundle import load_bundle  # noqa: E402
from bev_perception.calibration import save_extrinsics  # noqa: E402
from bev_perception.evaluation.bag import read_ground_truth  # noqa: E402
from bev_perception.evaluation.result_bag import make_typestore  # noqa: E402
from bev_perception.geometry import rotation_from_quaternion, transform_boxes  # noqa: E402
from bev_perception.parameters import SHIPPED_BUNDLE, SHIPPED_PARAMETERS  # noqa: E402
from training.bag_to_nuscenes import main  # noqa: E402
from training.data.file_checks import bad_files, needed_files  # noqa: E402
from training.data.nuscenes import open_nuscenes  # noqa: E402
from training.data.sensor_frame import sensor_frame  # noqa: E402
from training.data.source import Source  # noqa: E402
from training.tables.files import RADAR_DTYPE  # noqa: E402
from training.tables.vocabulary import token_of  # noqa: E402
from training.world.bag_writer import LIDAR_DTYPE, topic  # noqa: E402
from training.world.generate import epoch_ns, world_of  # noqa: E402
from training.world.observation import camera_matrix  # noqa: E402
from training.world.rig import RIG  # noqa: E402

START = epoch_ns(SETTINGS.seed)
SPEC = load_bundle(SHIPPED_BUNDLE).spec


@pytest.fixture(scope="module")
def town(town_bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("town")
    assert main([str(town_bag), str(out), "--lidar", topic("lidar", "LIDAR_TOP")[0]]) == 0
    return out


@pytest.fixture(scope="module")
def nusc(town: Path):
    return devkit.NuScenes("v1.0-trainval", str(town), verbose=False)


@pytest.fixture(scope="module")
def world():
    return world_of(SETTINGS.seed, SETTINGS.duration_s)


@pytest.fixture(scope="module")
def recorded(town_bag: Path):
    """(topic, stamp in us) -> message, read by rosbags alone."""
    store, found = make_typestore(), {}
    for name, kind, _, raw in rows_of(town_bag):
        if kind.startswith("sensor_msgs"):
            message = store.deserialize_cdr(raw, kind)
            found[name, message.header.stamp.sec * 10**6 + message.header.stamp.nanosec // 1000] = message
    return found


def data_of(nusc, modality: str):
    return [row for row in nusc.sample_data if row["sensor_modality"] == modality]


def test_every_image_is_the_recorded_one(nusc, town, recorded):
    rows = data_of(nusc, "camera")
    assert len(rows) == 6 * 12
    for row in rows:
        message = recorded[topic("raw", row["channel"])[0], row["timestamp"]]
        image = cv2.imread(str(town / row["filename"]))
        np.testing.assert_array_equal(image, message.data.reshape(message.height, message.width, 3))


def test_every_return_of_the_radars_is_the_recorded_one(nusc, town, recorded):
    states, count = list(range(18)), 0
    for row in data_of(nusc, "radar"):
        message = recorded[topic("radar", row["channel"])[0], row["timestamp"]]
        expected = np.frombuffer(message.data.tobytes(), RADAR_DTYPE)
        found = RadarPointCloud.from_file(str(town / row["filename"]), states, states, states)
        for line, name in zip(found.points, RADAR_DTYPE.names):
            np.testing.assert_array_equal(line, expected[name].astype(np.float64), err_msg=name)
        count += len(expected)
    assert count > 1000


def test_every_sweep_of_the_lidar_is_the_recorded_one(nusc, town, recorded):
    rows = data_of(nusc, "lidar")
    assert len(rows) == 20
    for row in rows:
        message = recorded[topic("lidar", "LIDAR_TOP")[0], row["timestamp"]]
        expected = np.frombuffer(message.data.tobytes(), LIDAR_DTYPE)
        found = LidarPointCloud.from_file(str(town / row["filename"]))
        for line, name in zip(found.points, ("x", "y", "z", "intensity")):
            np.testing.assert_array_equal(line, expected[name])


def test_sensors_sit_where_the_rig_has_them(nusc):
    for row in nusc.calibrated_sensor:
        channel = nusc.get("sensor", row["sensor_token"])["channel"]
        mount = RIG[channel]
        assert row["translation"] == mount.ego_from_sensor[:3, 3].tolist(), "to the last bit"
        turned = rotation_from_quaternion(np.array(row["rotation"]))
        np.testing.assert_allclose(turned, mount.ego_from_sensor[:3, :3], rtol=0, atol=1e-15)
        if mount.kind == "camera":
            assert row["camera_intrinsic"] == camera_matrix(mount, SETTINGS.scale).tolist(), "to the last bit"
    assert len(nusc.calibrated_sensor) == len(RIG)


def test_poses_are_the_worlds(nusc, world):
    """Between two messages of the odometry, 20 ms apart, motion is not quite linear: half a millimetre."""
    for row in nusc.ego_pose:
        expected = world.ego_pose(row["timestamp"] * 1000 - START)
        np.testing.assert_allclose(row["translation"], expected[:3, 3], rtol=0, atol=5e-4)
        turned = rotation_from_quaternion(np.array(row["rotation"]))
        np.testing.assert_allclose(turned, expected[:3, :3], rtol=0, atol=1e-4)


def test_boxes_are_the_worlds_actors(nusc, world):
    """As exact as the pose, and the heading of a vehicle that leans is exact to the second order."""
    checked = 0
    for sample in nusc.sample:
        stamp = sample["timestamp"] * 1000 - START
        states = {f"id {state.track_id}": state for state in world.actor_states(round(stamp / 1e9 * 12) * 10**9 // 12)}
        scene = nusc.get("scene", sample["scene_token"])
        instances = {nusc.get("sample_annotation", token)["instance_token"]: token for token in sample["anns"]}
        tracks = {token_of("instance", scene["name"], track): state for track, state in states.items()}
        for instance, token in instances.items():
            row, state = nusc.get("sample_annotation", token), tracks[instance]
            np.testing.assert_allclose(row["translation"], state.center, rtol=0, atol=5e-3)
            assert row["size"] == [state.size_lwh[1], state.size_lwh[0], state.size_lwh[2]], "to the last bit"
            assert np.cos(yaw_of(rotation_from_quaternion(np.array(row["rotation"]))) - state.yaw) > 1 - 1e-6
            assert row["category_name"] == state.category
            checked += 1
    assert checked > 20


def test_training_sees_the_drive(town, town_bag):
    frames = open_nuscenes(Source(town), "train", SPEC)
    truth = read_ground_truth(town_bag)
    assert len(frames) == 2 and not bad_files(needed_files(frames), 0)
    for frame in frames:
        objects = truth[min(truth, key=lambda stamp: abs(stamp - frame.stamp_ns))]
        seen = objects.num_points > 0
        assert len(frame.boxes) == seen.sum() > 5
        assert sorted(SPEC.classes[k] for k in frame.labels) == sorted(np.array(objects.names)[seen])
        assert not sensor_frame(frame, SPEC).missing
        in_odom = transform_boxes(frame.global_from_ego, frame.boxes)
        assert np.isfinite(in_odom).all() and np.isfinite(frame.velocity).mean() > 0.5


def test_a_calibration_file_has_the_lidar_too(town_bag, tmp_path, capsys):
    parameters = yaml.safe_load(SHIPPED_PARAMETERS.read_text())
    file = {"source": "file", "file": str(tmp_path / "mounts.yaml")}
    parameters["/**"]["ros__parameters"]["extrinsics"] = file
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters))
    mounts = {name: mount.ego_from_sensor for name, mount in RIG.items() if name != "LIDAR_TOP"}
    more = ["--params", str(tmp_path / "params.yaml"), "--lidar", topic("lidar", "LIDAR_TOP")[0]]
    save_extrinsics(tmp_path / "mounts.yaml", "base_link", mounts)
    assert main([str(town_bag), str(tmp_path / "out"), *more]) == 1
    assert "has no entry for LIDAR_TOP" in capsys.readouterr().err and not (tmp_path / "out").exists()
    mounts["LIDAR_TOP"] = RIG["LIDAR_TOP"].ego_from_sensor
    save_extrinsics(tmp_path / "mounts.yaml", "base_link", mounts)
    assert main([str(town_bag), str(tmp_path / "out"), *more]) == 0
    rows = json.loads((tmp_path / "out" / "v1.0-trainval" / "calibrated_sensor.json").read_text())
    (found,) = [row for row in rows if row["sensor_token"] == token_of("sensor", "LIDAR_TOP")]
    np.testing.assert_allclose(found["translation"], RIG["LIDAR_TOP"].ego_from_sensor[:3, 3], atol=1e-6)
