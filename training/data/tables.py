"""The tables of a nuScenes-format set as plain arrays: all that a keyframe needs, for any model, in any split."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.geometry import interpolate_pose, quaternion_from_rotation
from training.data.poses import pose_rows, poses_from_rows
from training.data.table_boxes import box_arrays, frame_numbers
from training.data.table_checks import check_key_frames, check_motion, check_names, samples_of
from training.data.table_rows import Row, find, look_up, row_blocks

TABLES = (
    "attribute", "calibrated_sensor", "category", "ego_pose", "instance", "log", "sample", "sample_annotation",
    "sample_data", "scene", "sensor",
)  # fmt: skip
SMALL_TABLES = ("attribute", "calibrated_sensor", "category", "instance", "log", "sample", "scene", "sensor")
SWEEP_NS = 50_000_000  # one turn of the synthetic LiDAR, whose sweeps are not motion corrected


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


def index_arrays(paths: Mapping[str, Path]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tables -> arrays and facts (channels, scenes, attributes, motion_corrected).

    data_*: one row per file, by scene, channel and stamp; frame_*: one row per keyframe, by scene and time; box_*: one
    row per annotation of a benchmark class, in the ego frame of its keyframe; rack_*: bicycle racks alike.
    The large tables are read a block at a time and kept as numbers.
    Raises ValueError for a table that is not JSON, and naming the row when the tables do not fit together.
    """
    with _without_collector():
        return _index_arrays(paths)


def _index_arrays(paths: Mapping[str, Path]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    tables = {name: [row for rows in row_blocks(paths[name]) for row in rows] for name in SMALL_TABLES}
    scenes = sorted(tables["scene"], key=lambda row: row["name"])
    channels = sorted(row["channel"] for row in tables["sensor"])
    samples = {row["token"]: row for row in tables["sample"]}
    check_names(tables)
    order = [row for scene in scenes for row in samples_of(scene, samples, find)]
    frame_of = {row["token"]: i for i, row in enumerate(order)}
    scene_of = {row["token"]: i for i, row in enumerate(scenes)}
    data, frame_data = _files(paths, tables, channels, samples, scene_of, frame_of)
    check_motion(data)
    _require_sensors(order, frame_data)
    vehicles = {row["token"]: row["vehicle"] for row in tables["log"]}
    corrected = all(vehicles.get(scene["log_token"]) != "synthetic" for scene in scenes)
    if not corrected:
        data["data_begin_pose"] = _begin_poses(data, channels)
    frames = {
        "frame_token": np.array([row["token"] for row in order], dtype=bytes),
        "frame_stamp": np.array([row["timestamp"] for row in order], dtype=np.int64) * 1000,
        "frame_scene": np.array(look_up(scene_of, order, "scene_token", "scene"), dtype=np.int64),
        "frame_data": frame_data,
    }
    # The ego pose of the LiDAR keyframe is the pose at sample.timestamp, by nuScenes' definition.
    lidar = frame_data[:, channels.index("LIDAR_TOP")] if "LIDAR_TOP" in channels else np.full(len(order), -1)
    reference = np.where(lidar >= 0, lidar, frame_data.max(axis=1))
    frames["frame_pose"] = data["data_pose"][reference]
    attributes = sorted(row["name"] for row in tables["attribute"])
    boxes = box_arrays(
        row_blocks(paths["sample_annotation"]), tables, frame_of, poses_from_rows(frames["frame_pose"]), attributes
    )
    facts = {
        "channels": channels,
        "scenes": [row["name"] for row in scenes],
        "attributes": attributes,
        "motion_corrected": corrected,
    }
    return data | frames | boxes, facts


@contextmanager
def _without_collector() -> Iterator[None]:
    """Within: no search for cycles, which rows of tables have none of. With millions of them it takes a third of the
    time."""
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collected:
            gc.enable()


def _poses(blocks: Iterator[list[Row]]) -> tuple[dict[str, int], np.ndarray]:
    """Token -> row, and the rows (n, 7) as `poses_from_rows` takes them."""
    number: dict[str, int] = {}
    parts = [np.zeros((0, 7))]
    count = 0
    for rows in blocks:
        number.update(zip((row["token"] for row in rows), range(count, count + len(rows)), strict=True))
        parts.append(pose_rows(rows))
        count += len(rows)
    return number, np.concatenate(parts)


def _files(
    paths: Mapping[str, Path],
    tables: Mapping[str, list[Row]],
    channels: list[str],
    samples: Mapping[str, Row],
    scene_of: Mapping[str, int],
    frame_of: Mapping[str, int],
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """data_* and calibration_* arrays; (frames, channels) the data row of each keyframe's file, -1 for none."""
    pose_of, poses = _poses(row_blocks(paths["ego_pose"]))
    calibrations = tables["calibrated_sensor"]
    calibration_of = {row["token"]: i for i, row in enumerate(calibrations)}
    sensors = {row["token"]: row["channel"] for row in tables["sensor"]}
    channel_of = np.array([channels.index(c) for c in look_up(sensors, calibrations, "sensor_token", "sensor")])
    scene_numbers = look_up(scene_of, tables["sample"], "scene_token", "scene")
    scene_of_sample = dict(zip((row["token"] for row in tables["sample"]), scene_numbers, strict=True))
    sizes = np.zeros((len(calibrations), 2), dtype=np.int64)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("scene", "stamp", "calibration", "pose", "frame")}
    names: list[bytes] = []
    for rows in row_blocks(paths["sample_data"]):
        calibration = look_up(calibration_of, rows, "calibrated_sensor_token", "calibrated_sensor")
        columns["calibration"].append(np.array(calibration, dtype=np.int32))
        columns["scene"].append(np.array(look_up(scene_of_sample, rows, "sample_token", "sample"), dtype=np.int32))
        columns["stamp"].append(np.array([row["timestamp"] for row in rows], dtype=np.int64) * 1000)
        columns["pose"].append(np.array(look_up(pose_of, rows, "ego_pose_token", "ego_pose"), dtype=np.int32))
        frame = np.full(len(rows), -1, dtype=np.int64)
        (keys,) = np.nonzero([row["is_key_frame"] for row in rows])
        frame[keys] = frame_numbers(frame_of, [rows[i] for i in keys])
        columns["frame"].append(frame)
        sizes[calibration] = [(row["width"] or 0, row["height"] or 0) for row in rows] or np.zeros((0, 2))
        names += [row["filename"].encode() for row in rows]
    del pose_of
    scene, stamp, calibration_row, pose, frame = (np.concatenate(columns[name]) for name in columns)
    channel = channel_of[calibration_row].astype(np.int16)
    order = np.lexsort((stamp, channel, scene))
    names = [names[i] for i in order]
    frame_data = np.full((len(frame_of), len(channels)), -1, dtype=np.int64)
    (keys,) = np.nonzero(frame[order] >= 0)
    frame_stamp = np.array([samples[token]["timestamp"] for token in frame_of], dtype=np.int64)
    of_key, channel_of_key = frame[order][keys], channel[order][keys]
    name_of = lambda k: names[keys[k]].decode()  # noqa: E731
    check_key_frames(of_key, channel_of_key, stamp[order][keys] // 1000, frame_stamp, name_of)
    frame_data[of_key, channel_of_key] = keys
    K = np.full((len(calibrations), 3, 3), np.nan)
    for i, row in enumerate(calibrations):
        if row["camera_intrinsic"]:
            K[i] = row["camera_intrinsic"]
    return {
        "data_scene": scene[order],
        "data_channel": channel[order],
        "data_stamp": stamp[order],
        "data_calibration": calibration_row[order],
        "data_pose": poses[pose[order]],
        "data_name_end": np.cumsum([len(name) for name in names], dtype=np.int64),
        "data_names": np.frombuffer(b"".join(names), dtype=np.uint8),
        "calibration_pose": pose_rows(calibrations),
        "calibration_K": K,
        "calibration_size": sizes,
    }, frame_data


def _require_sensors(order: list[Row], frame_data: np.ndarray) -> None:
    bare = np.flatnonzero((frame_data < 0).all(axis=1))
    if len(bare):
        raise ValueError(f"sample {order[bare[0]]['token']} has no key frame of any sensor; unpack the metadata again")


def _begin_poses(data: dict[str, np.ndarray], channels: list[str]) -> np.ndarray:
    """(n, 7): the ego pose one LiDAR turn before each LiDAR row, between the poses of all files of the scene; NaN for
    other channels."""
    begin = np.full_like(data["data_pose"], np.nan)
    lidar = channels.index("LIDAR_TOP") if "LIDAR_TOP" in channels else -1
    scenes = data["data_scene"]
    for start, end in zip(*(np.searchsorted(scenes, np.unique(scenes), side=side) for side in ("left", "right"))):
        rows = start + np.unique(data["data_stamp"][start:end], return_index=True)[1]
        stamps, poses = data["data_stamp"][rows], poses_from_rows(data["data_pose"][rows])
        for i in start + np.flatnonzero(data["data_channel"][start:end] == lidar):
            if len(rows) < 2:
                begin[i] = data["data_pose"][i]
                continue
            wanted = data["data_stamp"][i] - SWEEP_NS
            k = int(np.clip(np.searchsorted(stamps, wanted, side="right"), 1, len(rows) - 1))
            fraction = (wanted - stamps[k - 1]) / (stamps[k] - stamps[k - 1])
            pose = interpolate_pose(poses[k - 1], poses[k], float(fraction))
            begin[i] = [*pose[:3, 3], *quaternion_from_rotation(pose[:3, :3])]
    return begin
