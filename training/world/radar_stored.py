"""Keyframes for the comparison of radars, from a data set in nuScenes' format on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_perception.geometry import make_transform, rotation_from_quaternion
from training.data.radar_pcd import read_radar_pcd
from training.tables.vocabulary import CATEGORY_OF
from training.world.radar_scans import FRONT, OTHER, Boxes, KeyScan, placed
from training.world.radar_statistics import in_boxes

Row = dict[str, Any]


def stored(dataroot: str | Path, version: str = "v1.0-trainval") -> list[KeyScan]:
    """All keyframes of a set, whose radar returns are counted anew as nuScenes does (`in_boxes`).

    The town's own count, num_radar_pts in its tables, is of filtered returns and wider boxes. Velocities are
    differences of places.

    Raises FileNotFoundError for a folder without the tables.
    """
    root = Path(dataroot)
    if not (root / version).is_dir():
        raise FileNotFoundError(f"{root}: no tables in {version}; make a set with python -m training.world nuscenes")
    names = (
        "scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor", "sample_annotation", "instance",
        "category",
    )  # fmt: skip
    tables = {
        name: {row["token"]: row for row in json.loads((root / version / f"{name}.json").read_text())} for name in names
    }
    keys: dict[str, dict[str, Row]] = {}
    for row in tables["sample_data"].values():
        if row["is_key_frame"]:
            calibrated = tables["calibrated_sensor"][row["calibrated_sensor_token"]]
            channel = tables["sensor"][calibrated["sensor_token"]]["channel"]
            keys.setdefault(row["sample_token"], {})[channel] = row
    objects: dict[str, list[Row]] = {}
    for row in tables["sample_annotation"].values():
        objects.setdefault(row["sample_token"], []).append(row)
    samples = sorted(tables["sample"].values(), key=lambda row: (row["scene_token"], row["timestamp"]))
    return [_keyframe(root, tables, s, keys[s["token"]], objects.get(s["token"], [])) for s in samples]


def _keyframe(
    root: Path, tables: dict[str, dict[str, Row]], sample: Row, keys: dict[str, Row], rows: list[Row]
) -> KeyScan:
    scans = {name: read_radar_pcd(root / row["filename"]) for name, row in keys.items() if name.startswith("RADAR")}
    poses = {
        name: _pose(tables["ego_pose"][keys[name]["ego_pose_token"]])
        @ _pose(tables["calibrated_sensor"][keys[name]["calibrated_sensor_token"]])
        for name in scans
    }
    annotations = tables["sample_annotation"]
    velocities = np.array([_velocity(annotations, tables["sample"], row) for row in rows]).reshape(-1, 2)
    rotations = [rotation_from_quaternion(np.array(row["rotation"])) for row in rows]
    boxes = np.array(
        [
            [*r["translation"], r["size"][1], r["size"][0], r["size"][2], np.arctan2(R[1, 0], R[0, 0])]
            for r, R in zip(rows, rotations)
        ]
    ).reshape(-1, 7)
    returns = np.zeros(len(rows), np.int64)
    for name, scan in scans.items():
        returns += in_boxes(placed(scan, poses[name]), _at(boxes, velocities, keys[name], sample)).sum(axis=1)
    class_of = {category: name for name, category in CATEGORY_OF.items()}
    category_of = {
        token: tables["category"][row["category_token"]]["name"] for token, row in tables["instance"].items()
    }
    ego = np.array(tables["ego_pose"][keys["LIDAR_TOP"]["ego_pose_token"]]["translation"])
    found = Boxes(
        np.array([class_of.get(category_of[r["instance_token"]], OTHER) for r in rows]),
        np.array([r["instance_token"] for r in rows]),
        _at(boxes, velocities, keys[FRONT], sample),
        velocities,
        np.hypot(*(boxes[:, :2] - ego[:2]).T),
        np.array([r["num_lidar_pts"] for r in rows], dtype=np.int64),
        returns,
    )
    drive = tables["scene"][sample["scene_token"]]["name"]
    return KeyScan(drive, keys[FRONT]["timestamp"] / 1e6, scans[FRONT], poses[FRONT], found)


def _pose(row: Row) -> NDArray[np.float64]:
    return make_transform(rotation_from_quaternion(np.array(row["rotation"])), np.array(row["translation"]))


def _at(boxes: NDArray, velocities: NDArray, scan: Row, sample: Row) -> NDArray:
    """The boxes at the time of a scan."""
    moved = boxes.copy()
    moved[:, :2] += velocities * (scan["timestamp"] - sample["timestamp"]) / 1e6
    return moved


def _velocity(annotations: dict[str, Row], samples: dict[str, Row], row: Row) -> NDArray:
    """From the annotation before to the one after; 0 of an object that was annotated once."""
    first, last = (annotations[row[way]] if row[way] else row for way in ("prev", "next"))
    seconds = (samples[last["sample_token"]]["timestamp"] - samples[first["sample_token"]]["timestamp"]) / 1e6
    moved = np.array(last["translation"][:2]) - np.array(first["translation"][:2])
    return moved / seconds if seconds > 0 else np.zeros(2)
