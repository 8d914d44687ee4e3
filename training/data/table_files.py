"""The files of a nuScenes-format set as arrays: stamp, calibration, ego pose and key frame of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bev_perception.geometry import interpolate_pose, quaternion_from_rotation
from training.data.poses import pose_rows, poses_from_rows
from training.data.table_checks import check_key_frames, check_motion, one_size
from training.data.table_plausible import NameOf, check_file_moments, check_intrinsics, same_moments
from training.data.table_rows import Row, in_no_scene, look_up, row_blocks

SWEEP_NS = 50_000_000  # one turn of the synthetic LiDAR, whose sweeps are not motion corrected


@dataclass(frozen=True)
class Samples:
    """The rows of `sample`: token -> row; scene number, timestamp (us) and keyframe (-1: of no scene's chain)."""

    row_of: Mapping[str, int]
    scene: np.ndarray
    stamp_us: np.ndarray
    frame: np.ndarray


@dataclass(frozen=True)
class Files:
    """arrays: data_* by scene, channel and stamp, and calibration_*. frame_data (frames, channels): the data row of
    each keyframe's file, -1 for none. remarks: what is odd, and can be."""

    arrays: dict[str, np.ndarray]
    frame_data: np.ndarray
    remarks: list[str]


@dataclass
class _Columns:
    """Of every row of `sample_data`, in the order of the table, by block; sizes (calibrations, 2): of its images."""

    sizes: np.ndarray
    sample: list[np.ndarray] = field(default_factory=list)
    stamp: list[np.ndarray] = field(default_factory=list)  # us
    calibration: list[np.ndarray] = field(default_factory=list)
    pose: list[np.ndarray] = field(default_factory=list)
    key: list[np.ndarray] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)

    def joined(self, name: str) -> np.ndarray:
        return np.concatenate(getattr(self, name))


def read_files(
    paths: Mapping[str, Path], tables: Mapping[str, list[Row]], channels: list[str], samples: Samples
) -> Files:
    """Raises ValueError naming the row that refers to nothing, or that cannot be."""
    pose_of, poses = _poses(row_blocks(paths["ego_pose"]))
    calibrations = tables["calibrated_sensor"]
    calibration_of = {row["token"]: i for i, row in enumerate(calibrations)}
    sensors = {row["token"]: row["channel"] for row in tables["sensor"]}
    channel_of = np.array([channels.index(c) for c in look_up(sensors, calibrations, "sensor_token", "sensor")])
    columns = _Columns(np.full((len(calibrations), 2), -1, dtype=np.int64))
    for rows in row_blocks(paths["sample_data"]):
        _read(rows, columns, calibration_of, pose_of, samples)
    del pose_of
    calibration, pose, stamp = (columns.joined(name) for name in ("calibration", "pose", "stamp"))
    frame = np.where(columns.joined("key"), samples.frame[columns.joined("sample")], -1)
    scene = samples.scene[columns.joined("sample")].astype(np.int32)
    channel = channel_of[calibration].astype(np.int16)
    order = np.lexsort((stamp, channel, scene))
    names = [columns.names[i] for i in order]
    name_of = lambda k: f"row {order[k]} (from 0), {names[k].decode()}"  # noqa: E731
    K = np.full((len(calibrations), 3, 3), np.nan)
    for i, row in enumerate(calibrations):
        if row["camera_intrinsic"]:
            K[i] = row["camera_intrinsic"]
    check_intrinsics(calibrations, K, columns.sizes)
    arrays = {
        "data_scene": scene[order],
        "data_channel": channel[order],
        "data_stamp": stamp[order] * 1000,
        "data_calibration": calibration[order],
        "data_pose": poses[pose[order]],
        "data_name_end": np.cumsum([len(name) for name in names], dtype=np.int64),
        "data_names": np.frombuffer(b"".join(names), dtype=np.uint8),
        "calibration_pose": pose_rows(calibrations),
        "calibration_K": K,
        "calibration_size": np.maximum(columns.sizes, 0),
    }
    frame_data = _key_frames(frame[order], arrays, samples, len(channels), name_of)
    check_motion(arrays, pose[order], name_of)
    sensor = (arrays["data_scene"], arrays["data_channel"])
    return Files(arrays, frame_data, same_moments(*sensor, arrays["data_stamp"], name_of))


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


def _read(
    rows: list[Row],
    columns: _Columns,
    calibration_of: Mapping[str, int],
    pose_of: Mapping[str, int],
    samples: Samples,
) -> None:
    """A block of the table into the columns."""
    calibration = np.array(look_up(calibration_of, rows, "calibrated_sensor_token", "calibrated_sensor"), np.int32)
    sample = np.array(look_up(samples.row_of, rows, "sample_token", "sample"), dtype=np.int32)
    stamp = np.array([row["timestamp"] for row in rows], dtype=np.int64)
    key = np.array([row["is_key_frame"] for row in rows], dtype=bool)
    for i in np.flatnonzero(key & (samples.frame[sample] < 0))[:1]:
        raise in_no_scene(rows[i])
    check_file_moments(stamp - samples.stamp_us[sample], rows, len(columns.names))
    sizes = np.array([(row["width"] or 0, row["height"] or 0) for row in rows], dtype=np.int64).reshape(-1, 2)
    one_size(columns.sizes, calibration, sizes, rows, len(columns.names))
    columns.sample.append(sample)
    columns.stamp.append(stamp)
    columns.calibration.append(calibration)
    columns.pose.append(np.array(look_up(pose_of, rows, "ego_pose_token", "ego_pose"), dtype=np.int32))
    columns.key.append(key)
    columns.names += [row["filename"].encode() for row in rows]


def _key_frames(
    frame: np.ndarray, arrays: Mapping[str, np.ndarray], samples: Samples, channels: int, name_of: NameOf
) -> np.ndarray:
    """(frames, channels) of `Files`; frame: keyframe of each data row, -1 for none."""
    known = samples.frame >= 0
    frame_stamp = np.zeros(int(known.sum()), dtype=np.int64)
    frame_stamp[samples.frame[known]] = samples.stamp_us[known]
    (keys,) = np.nonzero(frame >= 0)
    of_key, channel = frame[keys], arrays["data_channel"][keys]
    stamps = arrays["data_stamp"][keys] // 1000
    check_key_frames(of_key, channel, stamps, frame_stamp, lambda k: name_of(int(keys[k])))
    frame_data = np.full((len(frame_stamp), channels), -1, dtype=np.int64)
    frame_data[of_key, channel] = keys
    return frame_data


def begin_poses(data: dict[str, np.ndarray], channels: list[str]) -> np.ndarray:
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
