"""The one real nuScenes keyframe at hand, written as a v1.0-mini set of one sample."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from bev_perception.geometry import invert, quaternion_from_rotation, rotation_from_yaw
from training.data.tables import TABLES

SOURCE = Path(__file__).resolve().parents[2] / "shared" / "data" / "nuscenes"
# Category of which one attribute-less object of the detection class is made.
CATEGORIES = {
    "car": "vehicle.car", "truck": "vehicle.truck", "bus": "vehicle.bus.rigid", "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction", "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle", "bicycle": "vehicle.bicycle", "barrier": "movable_object.barrier",
    "traffic_cone": "movable_object.trafficcone",
}  # fmt: skip


def scene() -> dict[str, Any]:
    """The description of the keyframe."""
    return json.loads((SOURCE / "scene-0061_s0.json").read_text())


def write_real_set(root: Path) -> Path:
    """Tables below `root`, sensor files as links to the recording."""
    found = scene()
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    global_from_ego, ego_from_lidar = np.array(found["ego2global"]), np.array(found["lidar"]["lidar2ego"])
    stamp = round(found["timestamp"] * 1e6)
    tables["log"] = [{"token": "log", "vehicle": "n015"}]
    tables["scene"] = [{"token": "scene", "name": "scene-0061", "log_token": "log", "first_sample_token": "sample"}]
    tables["sample"] = [{"token": "sample", "timestamp": stamp, "prev": "", "next": "", "scene_token": "scene"}]
    files = [("LIDAR_TOP", found["lidar"]["file"], stamp, global_from_ego, ego_from_lidar, [])]
    for name, camera in found["cams"].items():
        ego_from_cam = np.array(camera["cam2ego"])
        cam_from_lidar = np.array(camera["lidar2cam"])
        then = global_from_ego @ ego_from_lidar @ invert(cam_from_lidar) @ invert(ego_from_cam)
        files.append((name, camera["file"], round(camera["timestamp"] * 1e6), then, ego_from_cam, camera["cam2img"]))
    for name, file, at, pose, mount, K in files:
        image = name.startswith("CAM")
        tables["sensor"].append({"token": name, "channel": name})
        tables["calibrated_sensor"].append({"token": name, "sensor_token": name, "camera_intrinsic": K} | _pose(mount))
        tables["ego_pose"].append({"token": name, "timestamp": at} | _pose(pose))
        tables["sample_data"].append(
            {
                "token": name,
                "sample_token": "sample",
                "ego_pose_token": name,
                "calibrated_sensor_token": name,
                "timestamp": at,
                "is_key_frame": True,
                "width": 1600 if image else 0,
                "height": 900 if image else 0,
                "filename": f"samples/{name}/{file}",
                "prev": "",
                "next": "",
            }
        )
        (root / "samples" / name).mkdir(parents=True)
        os.symlink(SOURCE / "scene-0061_keyframe" / file, root / "samples" / name / file)
    for i, box in enumerate(found["boxes_lidar"]):
        if box["name"] not in CATEGORIES:
            continue
        category = CATEGORIES[box["name"]]
        x, y, z, length, width, height, yaw = box["xyzlwh_yaw"]
        lidar_from_box = np.eye(4)
        lidar_from_box[:3, :3], lidar_from_box[:3, 3] = rotation_from_yaw(yaw), (x, y, z)
        tables["instance"].append({"token": f"{i}", "category_token": category})
        tables["sample_annotation"].append(
            {
                "token": f"{i}", "sample_token": "sample", "instance_token": f"{i}", "attribute_tokens": [],
                "size": [width, length, height], "prev": "", "next": "",
                "num_lidar_pts": box["num_lidar_pts"], "num_radar_pts": box["num_radar_pts"],
            }
            | _pose(global_from_ego @ ego_from_lidar @ lidar_from_box)
        )  # fmt: skip
    tables["category"] = [{"token": name, "name": name} for name in CATEGORIES.values()]
    (root / "v1.0-mini").mkdir()
    for name, rows in tables.items():
        (root / "v1.0-mini" / f"{name}.json").write_text(json.dumps(rows))
    (root / "splits.json").write_text(json.dumps({"train": ["scene-0061"], "val": []}))
    return root


def _pose(a_from_b: np.ndarray) -> dict[str, Any]:
    return {
        "translation": a_from_b[:3, 3].tolist(),
        "rotation": quaternion_from_rotation(a_from_b[:3, :3]).tolist(),
    }
