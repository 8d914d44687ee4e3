"""Keyframes of a nuScenes-format data set (real or synthetic) as the runtime's own SensorFrame, with their boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.splits import create_splits_scenes

from bev_perception.geometry import invert, make_transform, rotation_from_quaternion, transform_boxes, transform_points
from bev_perception.model_spec import ModelSpec
from bev_perception.structures import (
    CameraCalibration,
    CameraFrame,
    CameraView,
    EgoPose,
    RadarScan,
    RadarSweep,
    SensorFrame,
)
from training.data.radar_pcd import read_radar_pcd

LIDAR_POINT_BYTES = 20  # x y z intensity ring, float32


@dataclass(frozen=True)
class SensorFile:
    """One sample_data row: the file, its calibration and the ego pose at its own stamp."""

    path: str
    stamp_ns: int
    ego_from_sensor: np.ndarray
    global_from_ego: np.ndarray
    K: np.ndarray | None = None
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Keyframe:
    """A sample: sensor files and annotations.

    boxes (M, 7) and velocity (M, 2; NaN where unknown) in the ego frame at stamp_ns; labels (M,) int64 into the spec's
    classes; num_points (M,) int64 LiDAR and radar points inside. radars: sweeps, newest first.
    """

    token: str
    scene: str
    stamp_ns: int
    global_from_ego: np.ndarray
    cameras: dict[str, SensorFile]
    radars: dict[str, tuple[SensorFile, ...]]
    lidar: SensorFile | None
    boxes: np.ndarray
    velocity: np.ndarray
    labels: np.ndarray
    attributes: tuple[str, ...] = ()
    num_points: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    prev: int = -1  # index of the previous keyframe of the scene in the list, -1 at its start


def read_split(dataroot: str | Path, version: str, split: str) -> list[str]:
    """Scene names of a split: from the set's own splits.json (synthetic sets), else the devkit's official ones.

    `train` and `val` of v1.0-mini are its own mini_train and mini_val. Raises ValueError naming the splits there are.
    """
    path = Path(dataroot) / "splits.json"
    if path.is_file():
        splits = json.loads(path.read_text())
    else:
        splits = create_splits_scenes()
        if version == "v1.0-mini":
            splits = {"train": splits["mini_train"], "val": splits["mini_val"]}
    if split not in splits:
        raise ValueError(f"{dataroot} ({version}) has no split {split!r}; it has {sorted(splits)}")
    return splits[split]


def load_keyframes(nusc: NuScenes, scenes: Sequence[str], spec: ModelSpec) -> list[Keyframe]:
    """All keyframes of the named scenes in time order. Raises ValueError naming scenes that the tables do not have."""
    known = {scene["name"]: scene for scene in nusc.scene}
    absent = sorted(set(scenes) - set(known))
    if absent:
        raise ValueError(
            f"{nusc.dataroot} ({nusc.version}) has no scenes {absent[:5]}; "
            f"it has {len(known)}, such as {sorted(known)[:3]}"
        )
    keyframes: list[Keyframe] = []
    for name in scenes:
        token, prev = known[name]["first_sample_token"], -1
        while token:
            sample = nusc.get("sample", token)
            keyframes.append(_keyframe(nusc, sample, name, spec, prev))
            prev, token = len(keyframes) - 1, sample["next"]
    return keyframes


def _keyframe(nusc: NuScenes, sample: dict[str, Any], scene: str, spec: ModelSpec, prev: int) -> Keyframe:
    rows = {channel: nusc.get("sample_data", token) for channel, token in sample["data"].items()}
    # The ego pose of the LiDAR keyframe is the pose at sample.timestamp, by nuScenes' definition.
    reference = rows.get("LIDAR_TOP", next(iter(rows.values())))
    global_from_ego = _pose(nusc.get("ego_pose", reference["ego_pose_token"]))
    objects = _annotations(nusc, sample, invert(global_from_ego), spec)
    return Keyframe(
        token=sample["token"],
        scene=scene,
        stamp_ns=sample["timestamp"] * 1000,
        global_from_ego=global_from_ego,
        cameras={c: _file(nusc, rows[c]) for c in spec.cameras if c in rows},
        radars={r: _sweeps(nusc, rows[r], spec.radar.sweeps) for r in spec.radars if r in rows},
        lidar=_file(nusc, rows["LIDAR_TOP"]) if "LIDAR_TOP" in rows else None,
        prev=prev,
        **objects,
    )


def _pose(row: dict[str, Any]) -> np.ndarray:
    return make_transform(rotation_from_quaternion(np.array(row["rotation"])), np.array(row["translation"]))


def _file(nusc: NuScenes, row: dict[str, Any]) -> SensorFile:
    calibration = nusc.get("calibrated_sensor", row["calibrated_sensor_token"])
    K = np.array(calibration["camera_intrinsic"]) if calibration["camera_intrinsic"] else None
    path = str(Path(nusc.dataroot) / row["filename"])
    pose = _pose(nusc.get("ego_pose", row["ego_pose_token"]))
    return SensorFile(path, row["timestamp"] * 1000, _pose(calibration), pose, K, row["width"] or 0, row["height"] or 0)


def _sweeps(nusc: NuScenes, row: dict[str, Any], count: int) -> tuple[SensorFile, ...]:
    files = [_file(nusc, row)]
    while row["prev"] and len(files) < count:
        row = nusc.get("sample_data", row["prev"])
        files.append(_file(nusc, row))
    return tuple(files)


def _annotations(
    nusc: NuScenes, sample: dict[str, Any], ego_from_global: np.ndarray, spec: ModelSpec
) -> dict[str, Any]:
    """Boxes that the benchmark scores: one of its classes, and seen by at least one LiDAR or radar point."""
    boxes, velocity, labels, attributes, num_points = [], [], [], [], []
    for token in sample["anns"]:
        row = nusc.get("sample_annotation", token)
        name = category_to_detection_name(row["category_name"])
        if name not in spec.classes or row["num_lidar_pts"] + row["num_radar_pts"] == 0:
            continue
        w, length, h = row["size"]
        heading = rotation_from_quaternion(np.array(row["rotation"]))[:2, 0]
        boxes.append([*row["translation"], length, w, h, np.arctan2(heading[1], heading[0])])
        velocity.append(ego_from_global[:2, :3] @ nusc.box_velocity(token))
        labels.append(spec.classes.index(name))
        attributes.append(nusc.get("attribute", row["attribute_tokens"][0])["name"] if row["attribute_tokens"] else "")
        num_points.append(row["num_lidar_pts"] + row["num_radar_pts"])
    return {
        "boxes": transform_boxes(ego_from_global, np.array(boxes).reshape(-1, 7)),
        "velocity": np.array(velocity, dtype=np.float64).reshape(-1, 2),
        "labels": np.array(labels, dtype=np.int64),
        "attributes": tuple(attributes),
        "num_points": np.array(num_points, dtype=np.int64),
    }


def sensor_frame(keyframe: Keyframe, spec: ModelSpec) -> SensorFrame:
    """The keyframe as the vehicle would see it: files read, nothing decoded; absent sensors named in `missing`."""
    cameras: list[CameraView | None] = []
    radars: list[tuple[RadarSweep, ...]] = []
    missing: dict[str, str] = {}
    for name in spec.cameras:
        file = keyframe.cameras.get(name)
        if file is None:
            missing[name] = "not_in_data_set"
            cameras.append(None)
            continue
        frame = CameraFrame(name, file.stamp_ns, "jpeg", np.fromfile(file.path, dtype=np.uint8))
        assert file.K is not None
        calibration = CameraCalibration(file.width, file.height, file.K, file.ego_from_sensor)
        cameras.append(CameraView(frame, calibration, EgoPose(file.stamp_ns, file.global_from_ego)))
    for name in spec.radars:
        sweeps = keyframe.radars.get(name, ())
        if not sweeps:
            missing[name] = "not_in_data_set"
        radars.append(tuple(_radar_sweep(name, file) for file in sweeps))
    return SensorFrame(
        keyframe.stamp_ns, EgoPose(keyframe.stamp_ns, keyframe.global_from_ego), tuple(cameras), tuple(radars), missing
    )


def _radar_sweep(name: str, file: SensorFile) -> RadarSweep:
    raw = read_radar_pcd(file.path)
    points = np.stack([raw[c].astype(np.float32) for c in ("x", "y", "z", "rcs", "vx_comp", "vy_comp")], axis=1)
    return RadarSweep(
        RadarScan(name, file.stamp_ns, points), file.ego_from_sensor, EgoPose(file.stamp_ns, file.global_from_ego)
    )


def lidar_points(keyframe: Keyframe) -> np.ndarray:
    """(P, 3) of the keyframe's LiDAR sweep in the ego frame at the keyframe; empty without LiDAR.

    Raises ValueError naming the file when it does not hold whole points.
    """
    if keyframe.lidar is None:
        return np.zeros((0, 3))
    raw = Path(keyframe.lidar.path).read_bytes()
    if len(raw) % LIDAR_POINT_BYTES:
        raise ValueError(
            f"{keyframe.lidar.path}: {len(raw)} bytes found, expected points of {LIDAR_POINT_BYTES} bytes; "
            "the file is cut off, copy it again"
        )
    points = np.frombuffer(raw, dtype=np.float32).reshape(-1, 5)[:, :3]
    ego_from_lidar = invert(keyframe.global_from_ego) @ keyframe.lidar.global_from_ego @ keyframe.lidar.ego_from_sensor
    return transform_points(ego_from_lidar, points.astype(np.float64))
