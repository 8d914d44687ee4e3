"""Detections as the results file of the nuScenes detection task: what its server and nuscenes-devkit read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.evaluation.matching import MAX_BOXES, strongest
from bev_perception.evaluation.objects import Objects
from bev_perception.files import write_atomic
from bev_perception.geometry import quaternion_from_rotation, rotation_from_yaw


def results_meta(camera: bool, lidar: bool, radar: bool) -> dict[str, bool]:
    """What of the sensors was used, as a results file says it; maps and other data are not."""
    return {
        "use_camera": camera, "use_lidar": lidar, "use_radar": radar, "use_map": False, "use_external": False,
    }  # fmt: skip


def result_rows(sample_token: str, objects: Objects, world_from_ego: np.ndarray) -> list[dict[str, Any]]:
    """Objects in the ego frame of a sample -> rows of a results file, in the world frame (the data set's `global`).

    Of more than the benchmark's 500 the strongest are taken. A velocity that is not known is written as 0.
    """
    objects = strongest(objects, MAX_BOXES)
    world = objects.in_world(world_from_ego)
    return [
        {
            "sample_token": sample_token,
            "translation": world.boxes[k, :3].tolist(),
            "size": box[[4, 3, 5]].tolist(),
            "rotation": quaternion_from_rotation(world_from_ego[:3, :3] @ rotation_from_yaw(box[6])).tolist(),
            "velocity": np.nan_to_num(world.velocity[k]).tolist(),
            "detection_name": objects.names[k],
            "detection_score": float(objects.scores[k]),
            "attribute_name": objects.attributes[k],
        }
        for k, box in enumerate(objects.boxes)
    ]


def write_results(path: str | Path, results: Mapping[str, list[dict[str, Any]]], meta: Mapping[str, bool]) -> None:
    """sample token -> rows, as the file that nuscenes-devkit's evaluation reads; written atomically."""
    write_atomic(path, json.dumps({"meta": dict(meta), "results": dict(results)}))
