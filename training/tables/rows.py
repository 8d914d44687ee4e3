"""Rows of the tables of a nuScenes-format data set, and how those of a scene hang together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.geometry import quaternion_from_rotation
from training.tables.vocabulary import token_of

Row = dict[str, Any]


def pose_fields(a_from_b: np.ndarray, offset: np.ndarray | float = 0.0) -> Row:
    """`translation` (moved by `offset`) and `rotation` (w x y z) of a (4, 4) pose."""
    return {
        "translation": (a_from_b[:3, 3] + offset).tolist(),
        "rotation": quaternion_from_rotation(a_from_b[:3, :3]).tolist(),
    }


def data_row(
    token: str,
    sample: str,
    calibrated: str,
    stamp_us: int,
    filename: str,
    key: bool,
    size: tuple[int, int],
) -> Row:
    """A row of sample_data, not yet chained. The ego pose has the same token. size: (width, height), (0, 0) of what is
    no image."""
    suffix = Path(filename).suffix.removeprefix(".")
    return {
        "token": token,
        "sample_token": sample,
        "ego_pose_token": token,
        "calibrated_sensor_token": calibrated,
        "timestamp": stamp_us,
        "fileformat": suffix if suffix in ("jpg", "png") else "pcd",
        "is_key_frame": key,
        "height": size[1],
        "width": size[0],
        "filename": filename,
        "prev": "",
        "next": "",
    }


def scene_tables(
    name: str,
    description: str,
    log: Row,
    stamps_us: Sequence[int],
    data: list[Row],
    poses: list[Row],
    calibrated: list[Row],
    tracks: Mapping[str, list[Row]],
) -> dict[str, list[Row]]:
    """All rows of one scene, chained. stamps_us: of its samples, whose tokens are `sample_token(name, i)`; data: in the
    order of time; tracks: annotations of each instance in the order of time, each with its `category`."""
    sensor_of = {row["token"]: row["sensor_token"] for row in calibrated}
    by_sensor: dict[str, list[Row]] = {}
    for row in data:
        by_sensor.setdefault(sensor_of[row["calibrated_sensor_token"]], []).append(row)
    scene, instances = token_of("scene", name), []
    samples = [
        {"token": sample_token(name, i), "timestamp": stamp, "prev": "", "next": "", "scene_token": scene}
        for i, stamp in enumerate(stamps_us)
    ]
    for rows in (*by_sensor.values(), samples, *tracks.values()):
        _chain(rows)
    for track, rows in tracks.items():
        categories = [row.pop("category") for row in rows]
        instances.append(
            {
                "token": token_of("instance", name, track),
                "category_token": token_of("category", categories[0]),
                "nbr_annotations": len(rows),
                "first_annotation_token": rows[0]["token"],
                "last_annotation_token": rows[-1]["token"],
            }
        )
    return {
        "sample": samples,
        "sample_data": data,
        "ego_pose": poses,
        "calibrated_sensor": calibrated,
        "instance": instances,
        "sample_annotation": [row for rows in tracks.values() for row in rows],
        "scene": [
            {
                "token": scene,
                "log_token": log["token"],
                "nbr_samples": len(samples),
                "first_sample_token": samples[0]["token"],
                "last_sample_token": samples[-1]["token"],
                "name": name,
                "description": description,
            }
        ],
        "log": [log],
    }


def annotation_row(
    scene: str,
    sample: int,
    track: str,
    category: str,
    global_from_box: np.ndarray,
    size_lwh: Sequence[float],
    attribute: str,
    visibility: str,
    lidar_points: int,
    radar_points: int,
    offset: np.ndarray | float = 0.0,
) -> Row:
    """A row of sample_annotation for `scene_tables`, of which `category` is taken out there. visibility: a token."""
    length, width, height = (float(v) for v in size_lwh)
    return {
        "category": category,
        "token": token_of("sample_annotation", scene, track, sample),
        "sample_token": sample_token(scene, sample),
        "instance_token": token_of("instance", scene, track),
        "visibility_token": visibility,
        "attribute_tokens": [token_of("attribute", attribute)] if attribute else [],
        **pose_fields(global_from_box, offset),
        "size": [width, length, height],
        "prev": "",
        "next": "",
        "num_lidar_pts": lidar_points,
        "num_radar_pts": radar_points,
    }


def sample_token(scene: str, index: int) -> str:
    return token_of("sample", scene, index)


def _chain(rows: list[Row]) -> None:
    for before, after in pairwise(rows):
        before["next"], after["prev"] = after["token"], before["token"]
