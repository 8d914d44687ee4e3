"""Seconds of a drive past standing things: two small cameras, two radars, odometry; and the same made wrong.

Radars measure in closed form: what stands closes in by its direction times the velocity of the radar.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tiny_bundle
from rosbags.rosbag2 import StoragePlugin, Writer

from bev_perception.evaluation.bag import GROUND_TRUTH_TOPIC
from bev_perception.evaluation.result_bag import make_typestore
from bev_perception.geometry import (
    box_corners,
    invert,
    make_transform,
    project,
    rotation_from_yaw,
    transform_boxes,
    transform_points,
)
from bev_perception.model_spec import ModelSpec
from training.world.actors import ActorState
from training.world.bag_messages import DETECTION_ARRAY, Messages
from training.world.record_queue import LATCHED

NS, MS = 1_000_000_000, 1_000_000
START = 1_700_000_000 * NS
SECONDS = 5.0
SPEED_MPS, TURN_RPS = 6.0, 0.15
PERIOD, DELAY = 100 * MS, 5 * MS
CAMERAS, RADARS = ("cam_a", "cam_b"), ("radar_a", "radar_b")
OFFSETS = {"cam_a": -10 * MS, "cam_b": 0}
WIDTH, HEIGHT = 32, 16
K = np.array([[20.0, 0, 15.5], [0, 20.0, 7.5], [0, 0, 1]])
LOOK_AHEAD = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float)
MOUNTS = {
    "cam_a": make_transform(LOOK_AHEAD, np.array([1.5, 0.0, 1.5])),
    "cam_b": make_transform(rotation_from_yaw(np.pi) @ LOOK_AHEAD, np.array([0.2, 0.0, 1.5])),
    "radar_a": make_transform(np.eye(3), np.array([3.4, 0.0, 0.5])),
    "radar_b": make_transform(rotation_from_yaw(np.radians(80.0)), np.array([2.4, 0.8, 0.7])),
}
RADAR_DTYPE = np.dtype([(n, "<f4") for n in ("x", "y", "z", "rcs", "vx", "vy", "vx_comp", "vy_comp")])
# The radar map's grid is nobody's business here; that there are two radars is.
SPEC: ModelSpec = dataclasses.replace(tiny_bundle.SPEC, cameras=CAMERAS, radars=RADARS)
VALUES: dict[str, Any] = {
    "sync.period_ms": PERIOD / MS,
    "sync.camera_tolerance_ms": 20.0,
    "cameras.cam_a.offset_ms": OFFSETS["cam_a"] / MS,
    "bundle": "tiny",
}


@dataclass(frozen=True)
class Row:
    """A message as it is about to be written."""

    record_ns: int
    topic: str
    kind: str
    message: Any

    @property
    def name(self) -> str:
        """cam_a, radar_b, odometry ..."""
        return self.topic.strip("/").split("/")[1 if self.topic.count("/") > 1 else 0]


# What becomes of a message: the messages to write instead; none: it is lost.
Change = Callable[[Row], Iterable[Row]]


def as_it_is(row: Row) -> Iterable[Row]:
    return (row,)


def pose_at(stamp_ns: int) -> np.ndarray:
    """odom_from_ego on a circle."""
    t = (stamp_ns - START) / NS
    radius, yaw = SPEED_MPS / TURN_RPS, TURN_RPS * t
    return make_transform(rotation_from_yaw(yaw), np.array([radius * np.sin(yaw), radius * (1 - np.cos(yaw)), 0.0]))


def radar_returns(ego_from_radar: np.ndarray, stamp_ns: int, things: np.ndarray, seed: int) -> np.ndarray:
    """What one radar measures of `things` (P, 3) in odom: those within 60 m and 75 degrees, every eighth moving."""
    rng = np.random.default_rng(seed)
    points = transform_points(invert(pose_at(stamp_ns) @ ego_from_radar), things)
    distance = np.linalg.norm(points, axis=1)
    seen = (distance < 60) & (distance > 2) & (np.abs(np.arctan2(points[:, 1], points[:, 0])) < np.radians(75))
    points, distance = points[seen], distance[seen]
    rays = points / distance[:, None]
    own = np.array([SPEED_MPS, 0, 0]) + np.cross([0, 0, TURN_RPS], ego_from_radar[:3, 3])
    over_ground = np.where(np.arange(len(points)) % 8 == 0, 5.0, 0.0) + rng.normal(0, 0.05, len(points))
    relative = over_ground - rays @ (ego_from_radar[:3, :3].T @ own)
    returns = np.zeros(len(points), RADAR_DTYPE)
    for axis, name in enumerate("xyz"):
        returns[name] = points[:, axis]
    for axis, name in enumerate("xy"):
        returns[f"v{name}"] = relative * rays[:, axis]
        returns[f"v{name}_comp"] = over_ground * rays[:, axis]
    return returns


@cache
def good_rows(seconds: float = SECONDS) -> tuple[Row, ...]:
    """Of the drive, in the order of recording. Shared: a change makes new messages (`altered`)."""
    rng = np.random.default_rng(5)
    make = Messages(make_typestore())
    rows: list[Row] = []

    def add(stamp_ns: int, topic: str, kind: str, message: Any) -> None:
        rows.append(Row(stamp_ns + DELAY, topic, kind, message))

    add(START, "/tf_static", "tf2_msgs/msg/TFMessage", make.transforms(START, "base_link", MOUNTS))
    end = START + round(seconds * NS)
    for anchor in range(START + 200 * MS, end, PERIOD):
        for camera in CAMERAS:
            stamp = anchor + OFFSETS[camera]
            image = np.full((HEIGHT, WIDTH, 3), rng.integers(40, 120), np.uint8)  # without a corner to be followed
            image[: HEIGHT // 3] = 235, 205, 190  # a sky
            info = make.camera_info(stamp, camera, K, WIDTH, HEIGHT)
            add(stamp, f"/camera/{camera}/camera_info", "sensor_msgs/msg/CameraInfo", info)
            add(stamp, f"/camera/{camera}/image_raw", "sensor_msgs/msg/Image", make.image(stamp, camera, image))
    things = np.column_stack([rng.uniform(-60, 90, (500, 2)), rng.uniform(0, 2, 500)])
    for k, stamp in enumerate(range(START, end, 75 * MS)):
        for radar in RADARS:
            cloud = make.cloud(stamp, radar, radar_returns(MOUNTS[radar], stamp, things, k))
            add(stamp, f"/radar/{radar}/points", "sensor_msgs/msg/PointCloud2", cloud)
    for stamp in range(START, end, 20 * MS):
        odometry = make.odometry(stamp, pose_at(stamp), (SPEED_MPS, 0.0, TURN_RPS))
        add(stamp, "/odometry", "nav_msgs/msg/Odometry", odometry)
    return tuple(sorted(rows, key=lambda row: row.record_ns))


def write_rows(path: Path, rows: Iterable[Row], latched: bool = True) -> Path:
    """A recording of these messages."""
    store = make_typestore()
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[tuple[str, str], Any] = {}
        for row in rows:
            key = (row.topic, row.kind)
            if key not in connections:
                qos = [LATCHED] if latched and row.topic == "/tf_static" else []
                connections[key] = writer.add_connection(*key, typestore=store, offered_qos_profiles=qos)
            writer.write(connections[key], row.record_ns, store.serialize_cdr(row.message, row.kind))
    return path


def write_drive(path: Path, change: Change = as_it_is, latched: bool = True) -> Path:
    rows = [changed for row in good_rows() for changed in change(row)]
    return write_rows(path, sorted(rows, key=lambda row: row.record_ns), latched)


# ---- ways to be wrong


@cache
def _blobs() -> np.ndarray:
    """(P, 4): x, y, z in odom and a grey level, of things along the way."""
    rng = np.random.default_rng(11)
    return np.column_stack([rng.uniform(-50, 80, (700, 2)), rng.uniform(0, 7, 700), rng.integers(0, 256, 700)])


def in_sight(row: Row) -> Iterable[Row]:
    """Cameras see standing things, in images of 160x90."""
    if row.name not in CAMERAS:
        return (row,)
    matrix = np.array([[120.0, 0, 79.5], [0, 120.0, 44.5], [0, 0, 1]])
    if row.topic.endswith("camera_info"):
        return (altered(row, width=160, height=90, k=matrix.reshape(-1)),)
    img_from_cam = make_transform(matrix, np.zeros(3))
    blobs, stamp_ns = _blobs(), row.record_ns - DELAY
    pixels, depth = project(img_from_cam @ invert(pose_at(stamp_ns) @ MOUNTS[row.name]), blobs[:, :3])
    image = np.full((90, 160, 3), 128, np.uint8)
    for k in np.argsort(-depth):
        if 3.0 < depth[k] < 60.0 and np.abs(pixels[k]).max() < 1000:
            center, level = np.round(pixels[k] * 16).astype(int), int(blobs[k, 3])
            cv2.circle(image, center.tolist(), round(16 * 40 / depth[k]), (level,) * 3, -1, cv2.LINE_AA, 4)
    return (altered(row, width=160, height=90, step=480, data=image.reshape(-1)),)


@cache
def _cars() -> np.ndarray:
    """(M, 7) boxes in odom, beside the way."""
    rng = np.random.default_rng(4)
    size = np.tile([2.0, 1.2, 1.6], (300, 1)) * rng.uniform(0.8, 1.2, (300, 3))
    cars = np.column_stack([rng.uniform(-50, 80, (300, 2)), size[:, 2] / 2, size, rng.uniform(-3, 3, 300)])
    way = np.array([pose_at(START + k * 100 * MS)[:2, 3] for k in range(100)])
    return cars[np.linalg.norm(cars[:, None, :2] - way, axis=2).min(axis=1) > 4.5]


def past_cars(row: Row) -> Iterable[Row]:
    """Cameras see standing cars as plain boxes, in images of 320x180, and somebody knows the boxes."""
    if row.name not in CAMERAS:
        return (row,)
    matrix = np.array([[240.0, 0, 159.5], [0, 240.0, 89.5], [0, 0, 1]])
    if row.topic.endswith("camera_info"):
        return (altered(row, width=320, height=180, k=matrix.reshape(-1)),)
    stamp_ns = row.record_ns - DELAY
    cars, odom_from_ego = _cars(), pose_at(stamp_ns)
    boxes = transform_boxes(invert(odom_from_ego), cars)
    img_from_ego = make_transform(matrix, np.zeros(3)) @ invert(MOUNTS[row.name])
    image = np.full((180, 320, 3), 128, np.uint8)
    for k in np.argsort(-np.linalg.norm(boxes[:, :2], axis=1)):
        pixels, depth = project(img_from_ego, box_corners(boxes[k])[0])
        if depth.min() > 1.0:
            hull = cv2.convexHull(np.round(pixels * 16).astype(np.int32))
            cv2.fillConvexPoly(image, hull, (int(40 + 173 * k % 190),) * 3, cv2.LINE_AA, 4)
    seen = altered(row, width=320, height=180, step=960, data=image.reshape(-1))
    if row.name != "cam_b":  # the anchor
        return (seen,)
    make = Messages(make_typestore())
    states = [ActorState(k, "car", "car", "", car[:3], car[3:6], car[6], np.zeros(3)) for k, car in enumerate(cars)]
    truth = make.ground_truth(stamp_ns, [make.true_box(state, 0, odom_from_ego, 5) for state in states])
    return (seen, Row(row.record_ns + MS, GROUND_TRUTH_TOPIC, DETECTION_ARRAY, truth))


def altered(row: Row, **fields: Any) -> Row:
    """The row with fields of its message replaced."""
    return replace(row, message=dataclasses.replace(row.message, **fields))


def stamped(row: Row, shift_ns: int = 0, stamp_ns: int | None = None, frame_id: str | None = None) -> Row:
    """The row with another stamp or frame in its header; when it was recorded stays."""
    header = row.message.header
    now = header.stamp.sec * NS + header.stamp.nanosec + shift_ns if stamp_ns is None else stamp_ns
    stamp = dataclasses.replace(header.stamp, sec=now // NS, nanosec=now % NS)
    return altered(row, header=dataclasses.replace(header, stamp=stamp, frame_id=frame_id or header.frame_id))


def only(topic: str, change: Change) -> Change:
    """Changes the messages of one topic."""
    return lambda row: change(row) if row.topic == topic else (row,)


def then(*changes: Change) -> Change:
    """One change after the other."""

    def change(row: Row) -> list[Row]:
        rows = [row]
        for one in changes:
            rows = [changed for row in rows for changed in one(row)]
        return rows

    return change


def points_of(row: Row) -> np.ndarray:
    return np.frombuffer(row.message.data.tobytes(), RADAR_DTYPE).copy()


def with_points(row: Row, points: np.ndarray) -> Row:
    return altered(row, data=np.frombuffer(points.tobytes(), np.uint8))
