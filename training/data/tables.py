"""The tables of a nuScenes-format set as plain arrays: all that a keyframe needs, for any model, in any split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from nuscenes.eval.detection.utils import category_to_detection_name

from bev_perception.geometry import interpolate_pose, invert, quaternion_from_rotation, transform_boxes
from bev_perception.model_spec import CLASSES
from training.data.table_checks import (
    TableChecks,
    check_key_frames,
    check_motion,
    check_names,
    not_between,
    samples_of,
)

TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "sample", "sample_annotation",
    "sample_data", "scene", "sensor",
)  # fmt: skip
BIKE_RACK = "static_object.bicycle_rack"
SWEEP_NS = 50_000_000  # one turn of the synthetic LiDAR, whose sweeps are not motion corrected
Row = dict[str, Any]
Found = TypeVar("Found")


def table_paths(dataroot: Path, version: str) -> dict[str, Path]:
    """Name -> file of every table. Raises FileNotFoundError that names what is missing and what is there."""
    if not (dataroot / version).is_dir():
        found = sorted(p.name for p in dataroot.glob("v1.0-*")) if dataroot.is_dir() else []
        raise FileNotFoundError(
            f"{dataroot}: no folder {version} with the tables of a nuScenes-format set; found {found}. "
            "Give --data the folder that holds v1.0-*/, samples/ and sweeps/, and --version one of those found"
        )
    paths = {name: dataroot / version / f"{name}.json" for name in TABLES}
    absent = [name for name, path in paths.items() if not path.is_file()]
    if absent:
        raise FileNotFoundError(
            f"{dataroot / version}: tables {absent} are missing; unpack the set's metadata archive again"
        )
    return paths


def read_tables(dataroot: Path, version: str) -> dict[str, list[Row]]:
    """Name -> rows. Raises ValueError naming a table that is not JSON, and a row that is not what it must be."""
    tables = {}
    for name, path in table_paths(dataroot, version).items():
        try:
            rows = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON ({error}); copy or unpack the table again") from error
        checks = TableChecks(path)
        tables[name] = checks.rows(rows)
        checks.end()
    return tables


def poses_from_rows(rows: np.ndarray) -> np.ndarray:
    """(n, 7) x y z and quaternion w x y z -> (n, 4, 4)."""
    q = rows[:, 3:] / np.linalg.norm(rows[:, 3:], axis=1, keepdims=True)
    w, x, y, z = q.T
    poses = np.zeros((len(rows), 4, 4))
    poses[:, 0, :3] = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], axis=1)
    poses[:, 1, :3] = np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], axis=1)
    poses[:, 2, :3] = np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], axis=1)
    poses[:, :3, 3] = rows[:, :3]
    poses[:, 3, 3] = 1
    return poses


def index_arrays(tables: dict[str, list[Row]]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tables -> arrays and facts (channels, scenes, attributes, motion_corrected).

    data_*: one row per file, by scene, channel and stamp; frame_*: one row per keyframe, by scene and time; box_*: one
    row per annotation of a benchmark class, in the ego frame of its keyframe; rack_*: bicycle racks alike.
    Raises ValueError naming the row when the tables do not fit together.
    """
    scenes = sorted(tables["scene"], key=lambda row: row["name"])
    channels = sorted(row["channel"] for row in tables["sensor"])
    samples = _by_token(tables["sample"])
    check_names(tables)
    order = [row for scene in scenes for row in samples_of(scene, samples, _get)]
    frame_of = {row["token"]: i for i, row in enumerate(order)}
    scene_of = {row["token"]: i for i, row in enumerate(scenes)}
    data, data_rows = _files(tables, channels, samples, scene_of)
    check_motion(data)
    frame_data = np.full((len(order), len(channels)), -1, dtype=np.int64)
    keys = np.array([i for i, row in enumerate(data_rows) if row["is_key_frame"]], dtype=np.int64)
    frame = np.array([_frame(frame_of, data_rows[i]) for i in keys], dtype=np.int64)
    frame_stamp = np.array([row["timestamp"] for row in order], dtype=np.int64)
    channel, stamp = data["data_channel"][keys], data["data_stamp"][keys] // 1000
    check_key_frames(frame, channel, stamp, frame_stamp, lambda k: data_rows[keys[k]]["filename"])
    frame_data[frame, channel] = keys
    _require_sensors(order, frame_data)
    vehicles = {row["token"]: row["vehicle"] for row in tables["log"]}
    corrected = all(vehicles.get(scene["log_token"]) != "synthetic" for scene in scenes)
    if not corrected:
        data["data_begin_pose"] = _begin_poses(data, channels)
    frames = {
        "frame_token": np.array([row["token"] for row in order], dtype=bytes),
        "frame_stamp": np.array([row["timestamp"] for row in order], dtype=np.int64) * 1000,
        "frame_scene": np.array(
            [_get(scene_of, row["scene_token"], "scene", row["token"]) for row in order], dtype=np.int64
        ),
        "frame_data": frame_data,
    }
    # The ego pose of the LiDAR keyframe is the pose at sample.timestamp, by nuScenes' definition.
    lidar = frame_data[:, channels.index("LIDAR_TOP")] if "LIDAR_TOP" in channels else np.full(len(order), -1)
    reference = np.where(lidar >= 0, lidar, frame_data.max(axis=1))
    frames["frame_pose"] = data["data_pose"][reference]
    attributes = sorted(row["name"] for row in tables["attribute"])
    boxes = _boxes(tables, samples, frame_of, poses_from_rows(frames["frame_pose"]), attributes)
    facts = {
        "channels": channels,
        "scenes": [row["name"] for row in scenes],
        "attributes": attributes,
        "motion_corrected": corrected,
    }
    return data | frames | boxes, facts


def _by_token(rows: Sequence[Row]) -> dict[str, Row]:
    return {row["token"]: row for row in rows}


def _get(rows: Mapping[str, Found], token: str, table: str, asked_by: str) -> Found:
    if token not in rows:
        raise ValueError(f"{table}.json has no row {token!r}, which {asked_by!r} refers to; unpack the metadata again")
    return rows[token]


def _frame(frame_of: Mapping[str, int], row: Row) -> int:
    """The keyframe of a row, which `sample` may have and no scene lead to."""
    if row["sample_token"] not in frame_of:
        raise ValueError(
            f"sample.json: no scene's chain of `next` leads to {row['sample_token']!r}, which {row['token']!r} refers "
            "to; unpack the metadata again"
        )
    return frame_of[row["sample_token"]]


def _pose_row(row: Row) -> list[float]:
    return [*row["translation"], *row["rotation"]]


def _files(
    tables: dict[str, list[Row]], channels: list[str], samples: dict[str, Row], scene_of: dict[str, int]
) -> tuple[dict[str, np.ndarray], list[Row]]:
    sensors, poses = _by_token(tables["sensor"]), _by_token(tables["ego_pose"])
    calibrations = {row["token"]: i for i, row in enumerate(tables["calibrated_sensor"])}
    number = {name: i for i, name in enumerate(channels)}
    channel_of = [
        number[_get(sensors, row["sensor_token"], "sensor", row["token"])["channel"]]
        for row in tables["calibrated_sensor"]
    ]
    sizes = np.zeros((len(calibrations), 2), dtype=np.int64)
    keyed = []
    for row in tables["sample_data"]:
        calibration = _get(calibrations, row["calibrated_sensor_token"], "calibrated_sensor", row["token"])
        sample = _get(samples, row["sample_token"], "sample", row["token"])
        scene = _get(scene_of, sample["scene_token"], "scene", sample["token"])
        keyed.append((scene, channel_of[calibration], row["timestamp"], calibration, row))
        sizes[calibration] = row["width"] or 0, row["height"] or 0
    keyed.sort(key=lambda entry: entry[:3])
    rows = [entry[4] for entry in keyed]
    names = [row["filename"].encode() for row in rows]
    K = np.full((len(calibrations), 3, 3), np.nan)
    for i, row in enumerate(tables["calibrated_sensor"]):
        if row["camera_intrinsic"]:
            K[i] = row["camera_intrinsic"]
    pose_rows = [_pose_row(_get(poses, row["ego_pose_token"], "ego_pose", row["token"])) for row in rows]
    return {
        "data_scene": np.array([entry[0] for entry in keyed], dtype=np.int32),
        "data_channel": np.array([entry[1] for entry in keyed], dtype=np.int16),
        "data_stamp": np.array([entry[2] for entry in keyed], dtype=np.int64) * 1000,
        "data_calibration": np.array([entry[3] for entry in keyed], dtype=np.int32),
        "data_pose": np.array(pose_rows, dtype=np.float64).reshape(-1, 7),
        "data_name_end": np.cumsum([len(name) for name in names], dtype=np.int64),
        "data_names": np.frombuffer(b"".join(names), dtype=np.uint8),
        "calibration_pose": np.array([_pose_row(row) for row in tables["calibrated_sensor"]], dtype=np.float64),
        "calibration_K": K,
        "calibration_size": sizes,
    }, rows


def _require_sensors(order: list[Row], frame_data: np.ndarray) -> None:
    bare = np.flatnonzero((frame_data < 0).all(axis=1))
    if len(bare):
        raise ValueError(f"sample {order[bare[0]]['token']} has no key frame of any sensor; unpack the metadata again")


def _begin_poses(data: dict[str, np.ndarray], channels: list[str]) -> np.ndarray:
    """(n, 7): the ego pose one LiDAR turn before each LiDAR row, between the poses of all files of the scene; NaN for
    other channels."""
    begin = np.full_like(data["data_pose"], np.nan)
    lidar = channels.index("LIDAR_TOP") if "LIDAR_TOP" in channels else -1
    for scene in np.unique(data["data_scene"]):
        rows = np.flatnonzero(data["data_scene"] == scene)
        rows = rows[np.unique(data["data_stamp"][rows], return_index=True)[1]]
        stamps, poses = data["data_stamp"][rows], poses_from_rows(data["data_pose"][rows])
        for i in np.flatnonzero((data["data_scene"] == scene) & (data["data_channel"] == lidar)):
            if len(rows) < 2:
                begin[i] = data["data_pose"][i]
                continue
            wanted = data["data_stamp"][i] - SWEEP_NS
            k = int(np.clip(np.searchsorted(stamps, wanted, side="right"), 1, len(rows) - 1))
            fraction = (wanted - stamps[k - 1]) / (stamps[k] - stamps[k - 1])
            pose = interpolate_pose(poses[k - 1], poses[k], float(fraction))
            begin[i] = [*pose[:3, 3], *quaternion_from_rotation(pose[:3, :3])]
    return begin


def _boxes(
    tables: dict[str, list[Row]],
    samples: dict[str, Row],
    frame_of: dict[str, int],
    global_from_ego: np.ndarray,
    attributes: list[str],
) -> dict[str, np.ndarray]:
    annotations = _by_token(tables["sample_annotation"])
    categories = {row["token"]: row["name"] for row in tables["category"]}
    names = {
        row["token"]: _get(categories, row["category_token"], "category", row["token"]) for row in tables["instance"]
    }
    attribute_of = {row["token"]: attributes.index(row["name"]) for row in tables["attribute"]}
    kept: list[tuple[int, int, Row]] = []  # frame, class or -1 for a rack, row; in the order of the table
    for row in tables["sample_annotation"]:
        category = _get(names, row["instance_token"], "instance", row["token"])
        name = category_to_detection_name(category)
        if name in CLASSES or category == BIKE_RACK:
            _get(samples, row["sample_token"], "sample", row["token"])
            kept.append((_frame(frame_of, row), CLASSES.index(name) if name in CLASSES else -1, row))
    kept.sort(key=lambda entry: entry[0])
    rows = [row for _, _, row in kept]
    frame = np.array([entry[0] for entry in kept], dtype=np.int64)
    label = np.array([entry[1] for entry in kept], dtype=np.int64)
    poses = poses_from_rows(np.array([_pose_row(row) for row in rows], dtype=np.float64).reshape(-1, 7))
    boxes = np.zeros((len(rows), 7))
    boxes[:, :3] = poses[:, :3, 3]
    boxes[:, 3:6] = np.array([row["size"] for row in rows], dtype=np.float64).reshape(-1, 3)[:, [1, 0, 2]]  # w, l, h
    boxes[:, 6] = np.arctan2(poses[:, 1, 0], poses[:, 0, 0])
    velocity = np.array([_velocity(row, annotations, samples) for row in rows], dtype=np.float64).reshape(-1, 3)
    ends = np.searchsorted(frame, np.arange(len(global_from_ego)), side="right")
    for i, (start, end) in enumerate(zip([0, *ends], ends)):
        of_frame, ego_from_global = slice(start, end), invert(global_from_ego[i])
        boxes[of_frame] = transform_boxes(ego_from_global, boxes[of_frame])
        velocity[of_frame] = velocity[of_frame] @ ego_from_global[:3, :3].T
    attribute = [
        _get(attribute_of, row["attribute_tokens"][0], "attribute", row["token"]) if row["attribute_tokens"] else -1
        for row in rows
    ]
    points = np.array([(row["num_lidar_pts"], row["num_radar_pts"]) for row in rows], dtype=np.int64).reshape(-1, 2)
    scored, rack, count = label >= 0, label < 0, len(global_from_ego)
    return {
        "box_end": np.searchsorted(frame[scored], np.arange(count), side="right"),
        "box": boxes[scored],
        "box_velocity": velocity[scored, :2],
        "box_class": label[scored],
        "box_attribute": np.array(attribute, dtype=np.int64)[scored],
        "box_points": points[scored],
        "rack_end": np.searchsorted(frame[rack], np.arange(count), side="right"),
        "rack": boxes[rack],
    }


def _velocity(row: Row, annotations: dict[str, Row], samples: dict[str, Row]) -> np.ndarray:
    """(3,) m/s in the global frame from the neighbouring keyframes; NaN where they are missing or more than 1.5 s apart
    each (nuscenes-devkit, NuScenes.box_velocity)."""
    if not row["prev"] and not row["next"]:
        return np.full(3, np.nan)
    first, last = (
        _get(annotations, row[name], "sample_annotation", row["token"]) if row[name] else row
        for name in ("prev", "next")
    )
    begin, end = (_get(samples, of["sample_token"], "sample", of["token"])["timestamp"] for of in (first, last))
    apart = 1e-6 * (end - begin)
    if apart <= 0:
        raise not_between(row["token"], row["prev"], row["next"])
    if apart > (3.0 if row["prev"] and row["next"] else 1.5):
        return np.full(3, np.nan)
    return (np.array(last["translation"]) - np.array(first["translation"])) / apart
