"""A second of a drive for the tiny bundle: two small cameras, a radar, odometry, ground truth, written with rosbags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import yaml
from rosbags.rosbag2 import StoragePlugin, Writer

from bev_perception.evaluation.result_bag import make_typestore
from bev_perception.geometry import make_transform
from training.world.actors import ActorState
from training.world.bag_messages import DETECTION_ARRAY, Messages

START = 1_700_000_000_000_000_000
MS = 1_000_000
PERIOD = 100 * MS
DELAY = 5 * MS
CAMERAS, RADARS = ("cam_a", "cam_b"), ("radar_a",)
OFFSETS = {"cam_a": -10 * MS, "cam_b": 0}
K = np.array([[20.0, 0, 15.5], [0, 20.0, 7.5], [0, 0, 1]])
# optical axes along +x of the vehicle, 1.5 m up
EGO_FROM_CAM = make_transform(np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float), np.array([0.5, 0.0, 1.5]))
EGO_FROM_RADAR = make_transform(np.eye(3), np.array([1.0, 0.0, 0.5]))
RADAR_DTYPE = np.dtype([(n, "<f4") for n in ("x", "y", "z", "rcs", "vx_comp", "vy_comp")])


def anchor_stamps(frames: int = 10) -> list[int]:
    """Stamps of cam_b, which are the stamps of the frames."""
    return [START + 200 * MS + k * PERIOD for k in range(frames)]


def ego_pose(stamp_ns: int) -> np.ndarray:
    """3 m/s along x."""
    return make_transform(np.eye(3), np.array([3.0 * (stamp_ns - START) * 1e-9, 0.0, 0.0]))


def write_drive(
    path: Path, frames: int = 10, seed: int = 3, moves: Mapping[int, Mapping[str, np.ndarray]] | None = None
) -> Path:
    """The bag; messages are recorded DELAY after their stamps. moves: stamp -> what /tf_static says anew then, as
    sensor -> base_link_from_sensor."""
    rng = np.random.default_rng(seed)
    store = make_typestore()
    make = Messages(store)
    rows: list[tuple[int, str, str, object]] = []
    mounts = dict.fromkeys(CAMERAS, EGO_FROM_CAM) | {"radar_a": EGO_FROM_RADAR}
    for stamp, poses in {START: mounts, **(moves or {})}.items():
        transforms = make.transforms(stamp, "base_link", dict(poses))
        rows.append((stamp, "/tf_static", "tf2_msgs/msg/TFMessage", transforms))
    for anchor in anchor_stamps(frames):
        for camera in CAMERAS:
            stamp = anchor + OFFSETS[camera]
            image = rng.integers(0, 256, (16, 32, 3), dtype=np.uint8)
            info = make.camera_info(stamp, camera, K, 32, 16)
            rows.append((stamp, f"/camera/{camera}/camera_info", "sensor_msgs/msg/CameraInfo", info))
            rows.append(
                (stamp, f"/camera/{camera}/image_raw", "sensor_msgs/msg/Image", make.image(stamp, camera, image))
            )
        car = ActorState(
            7, "vehicle.car", "car", "vehicle.moving", np.array([2.0, 1.0, 0.8]) + ego_pose(anchor)[:3, 3],
            np.array([1.5, 0.8, 1.2]), 0.3, np.array([1.0, 0.2, 0.0]),
        )  # fmt: skip
        truth = make.ground_truth(anchor, [make.true_box(car, 0, ego_pose(anchor), 5)])
        rows.append((anchor, "/ground_truth/detections", DETECTION_ARRAY, truth))
    last = anchor_stamps(frames)[-1]
    for stamp in range(START, last + 150 * MS, 50 * MS):
        points = np.zeros(12, RADAR_DTYPE)
        for name in RADAR_DTYPE.names:
            points[name] = rng.uniform(-3, 3, 12)
        cloud = make.cloud(stamp + 3 * MS, "radar_a", points)
        rows.append((stamp + 3 * MS, "/radar/radar_a/points", "sensor_msgs/msg/PointCloud2", cloud))
    for stamp in range(START, last + 150 * MS, 20 * MS):
        odometry = make.odometry(stamp, ego_pose(stamp), (3.0, 0.0, 0.0))
        rows.append((stamp, "/odometry", "nav_msgs/msg/Odometry", odometry))
    rows.sort(key=lambda row: row[0])
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {}
        for stamp, topic, kind, message in rows:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], stamp + DELAY, store.serialize_cdr(message, kind))
    return path


def write_params(path: Path, **values: object) -> Path:
    """Parameters of the node for this drive; `values` are added or replace."""
    flat = {
        "sync.period_ms": PERIOD / MS,
        "sync.camera_tolerance_ms": 20.0,
        "cameras.cam_a.offset_ms": OFFSETS["cam_a"] / MS,
        "onnxruntime.threads": 1,
    }
    flat |= {name.replace("__", "."): value for name, value in values.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": flat}}))
    return path
