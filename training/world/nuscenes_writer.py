"""Synthetic drives as a data set in the nuScenes format (v1.0 schema), which nuscenes-devkit loads unchanged.

    OUT/v1.0-trainval/*.json   the 13 tables
    OUT/samples, OUT/sweeps    CAM_*: JPEG at the rendered size; RADAR_*: binary .pcd; LIDAR_TOP: float32 (N, 5)
    OUT/maps                   one small mask (the devkit demands one)
    OUT/splits.json            {'train': [scene names], 'val': [scene names]}
    OUT/.scenes                one file per finished scene: its rows; an interrupted run goes on after the last one

The global frame is the world's frame moved by GLOBAL_OFFSET_M, so that nobody gets away with assuming the origin.
An object is annotated at a keyframe when it is within 80 m and any sensor had a return from it, and also in gaps of at
most MAX_GAP keyframes between two such (0 points, lowest visibility), so that box_velocity has neighbours to use.
LiDAR sweeps are NOT motion corrected (nuScenes' are).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bev_perception.geometry import quaternion_from_rotation, rotation_from_yaw
from training.world.actors import ActorState
from training.world.camera import CameraImage
from training.world.generate import (
    Progress,
    Rates,
    Scan,
    epoch_ns,
    keyframe_stamps,
    ordered_map,
    plan_drive,
    summary,
    take,
    world_of,
)
from training.world.lidar import LidarSweep
from training.world.nuscenes_tables import radar_pcd, static_tables, token_of, visibility_token
from training.world.observation import (
    ANNOTATION_RANGE_M,
    Observation,
    Snapshot,
    camera_matrix,
    merge,
    observe,
    snapshot,
)
from training.world.rig import RIG
from training.world.world import World

Row = dict[str, Any]
GLOBAL_OFFSET_M = np.array([600.0, 1600.0, 0.0])
SCENES_PER_SEED = 1000
MAX_GAP = 2
JPEG_QUALITY = 95
FORMAT = 1  # raise it when the files of a scene change, so that old and new scenes are never mixed
TABLES = (
    "attribute calibrated_sensor category ego_pose instance log map sample sample_annotation sample_data scene sensor "
    "visibility"
).split()


@dataclass(frozen=True)
class DatasetSettings:
    """Everything the bytes of a scene depend on besides its index."""

    seed: int = 0
    duration_s: float = 20.0
    scale: float = 0.22
    rates: Rates = field(default_factory=Rates)

    def scene_seed(self, index: int) -> int:
        """The world seed of scene `index`. Raises ValueError beyond SCENES_PER_SEED, where seeds would repeat."""
        if not 0 <= index < SCENES_PER_SEED:
            raise ValueError(f"a data set has at most {SCENES_PER_SEED} scenes per seed, found index {index}")
        return self.seed * SCENES_PER_SEED + index


def write_dataset(
    out: str | Path,
    scenes: int,
    settings: DatasetSettings,
    workers: int = 2,
    version: str = "v1.0-trainval",
    val_every: int = 6,
) -> dict[str, Any]:
    """Makes scenes 0 .. scenes-1 that are not there yet, then the tables over exactly these; returns the rates.

    Raises ValueError when OUT holds scenes made with other settings.
    """
    out = Path(out)
    (out / ".scenes").mkdir(parents=True, exist_ok=True)
    todo = [index for index in range(scenes) if not _finished(out, index, settings)]
    if len(todo) < scenes:
        print(f"{scenes - len(todo)} of {scenes} scenes are already in {out}")
    progress = Progress("scenes", len(todo), every_s=0.0)
    tasks = [(str(out), index, settings) for index in todo]
    for keyframes, images in ordered_map(write_scene, tasks, workers):
        progress.add(1, keyframes=keyframes, images=images)
    _write_tables(out, scenes, version, val_every)
    return summary(progress)


def split_of(index: int, val_every: int) -> str:
    """Every val_every-th scene validates. Conditions are drawn per scene at random, so both splits have all of them."""
    return "val" if index % val_every == val_every - 1 else "train"


def scene_name(index: int) -> str:
    return f"scene-{index:04d}"


def write_scene(task: tuple[str, int, DatasetSettings]) -> tuple[int, int]:
    """(OUT, index, settings): writes the scene's files, and its rows last; returns (keyframes, images) written."""
    out, index, settings = Path(task[0]), task[1], task[2]
    name, seed = scene_name(index), settings.scene_seed(index)
    world = world_of(seed, settings.duration_s)
    scene = _SceneRows(name, epoch_ns(seed), keyframe_stamps(settings.duration_s), world, settings.scale)
    for scan in plan_drive(settings.duration_s, settings.rates):
        result = take(world, scan, seed, settings.scale)
        path, data = scene.add(scan, result)
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        (out / path).write_bytes(data)
    content = {"format": FORMAT, "settings": asdict(settings), "tables": scene.finish()}
    write_json(_stamp(out, index), content)
    return len(scene.keyframes), scene.images


class _SceneRows:
    """Collects the rows of one scene while its scans come in."""

    def __init__(self, name: str, start_ns: int, keyframes: list[int], world: World, scale: float) -> None:
        self.name, self.start_ns, self.keyframes, self.world, self.scale = name, start_ns, keyframes, world, scale
        self.data: list[Row] = []
        self.poses: list[Row] = []
        self.calibrated: dict[str, Row] = {}
        self.seen: list[dict[int, Observation]] = [{} for _ in keyframes]
        self.actors: Snapshot | None = None
        self.images = 0

    def add(self, scan: Scan, result: CameraImage | LidarSweep | np.ndarray) -> tuple[str, bytes]:
        """Adds one scan; returns its path below OUT and the bytes to write there."""
        key = scan.keyframe >= 0
        if key:
            merge(
                self.seen[scan.keyframe], observe(self.world, scan, result, self._actors_at(scan.keyframe), self.scale)
            )
        # As in nuScenes a sweep belongs to the sample that follows it.
        sample = next(index for index, stamp in enumerate(self.keyframes) if stamp >= scan.stamp_ns)
        stamp_us = (self.start_ns + scan.stamp_ns) // 1000
        suffix, data = _encode(result)
        filename = f"{'samples' if key else 'sweeps'}/{scan.channel}/{self.name}__{scan.channel}__{stamp_us}{suffix}"
        width, height = (result.bgr.shape[1], result.bgr.shape[0]) if isinstance(result, CameraImage) else (0, 0)
        self.images += isinstance(result, CameraImage)
        if scan.channel not in self.calibrated:
            self.calibrated[scan.channel] = _calibrated_row(self.name, scan.channel, self.scale)
        token = token_of("sample_data", self.name, scan.channel, scan.stamp_ns)
        self.data.append(
            {
                "token": token,
                "sample_token": self.sample_token(sample),
                "ego_pose_token": token,
                "calibrated_sensor_token": self.calibrated[scan.channel]["token"],
                "timestamp": stamp_us,
                "fileformat": "jpg" if suffix == ".jpg" else "pcd",
                "is_key_frame": key,
                "height": height,
                "width": width,
                "filename": filename,
                "prev": "",
                "next": "",
            }
        )
        world_from_ego = self.world.ego_pose(scan.stamp_ns)
        self.poses.append({"token": token, "timestamp": stamp_us, **_pose_fields(world_from_ego, GLOBAL_OFFSET_M)})
        return filename, data

    def _actors_at(self, keyframe: int) -> Snapshot:
        if self.actors is None or self.actors.stamp_ns != self.keyframes[keyframe]:
            self.actors = snapshot(self.world, self.keyframes[keyframe])
        return self.actors

    def sample_token(self, index: int) -> str:
        return token_of("sample", self.name, index)

    def finish(self) -> dict[str, list[Row]]:
        """All rows of the scene, chained."""
        by_sensor: dict[str, list[Row]] = {}
        for row in self.data:
            by_sensor.setdefault(row["calibrated_sensor_token"], []).append(row)
        for rows in by_sensor.values():
            _chain(rows)
        scene_token, log_token = token_of("scene", self.name), token_of("log", self.name)
        samples = [
            {
                "token": self.sample_token(i),
                "timestamp": (self.start_ns + stamp) // 1000,
                "prev": "",
                "next": "",
                "scene_token": scene_token,
            }
            for i, stamp in enumerate(self.keyframes)
        ]
        _chain(samples)
        instances, annotations = self._annotations()
        return {
            "sample": samples,
            "sample_data": self.data,
            "ego_pose": self.poses,
            "calibrated_sensor": list(self.calibrated.values()),
            "instance": instances,
            "sample_annotation": annotations,
            "scene": [
                {
                    "token": scene_token,
                    "log_token": log_token,
                    "nbr_samples": len(samples),
                    "first_sample_token": samples[0]["token"],
                    "last_sample_token": samples[-1]["token"],
                    "name": self.name,
                    "description": describe(self.world),
                }
            ],
            "log": [
                {
                    "token": log_token,
                    "logfile": self.name,
                    "vehicle": "synthetic",
                    "date_captured": "2023-11-14",
                    "location": "synthetic",
                }
            ],
        }

    def _annotations(self) -> tuple[list[Row], list[Row]]:
        states: list[dict[int, ActorState]] = [
            {s.track_id: s for s in self.world.actor_states(stamp, ANNOTATION_RANGE_M)} for stamp in self.keyframes
        ]
        tracks = sorted({track_id for at_keyframe in states for track_id in at_keyframe})
        instances, annotations = [], []
        for track_id in tracks:
            near = [k for k, at_keyframe in enumerate(states) if track_id in at_keyframe]
            observed = [k for k in near if track_id in self.seen[k] and self.seen[k][track_id].seen]
            present = [k for k in fill_gaps(observed, MAX_GAP) if k in near]
            rows = [self._annotation(k, states[k][track_id]) for k in present]
            if not rows:
                continue
            _chain(rows)
            annotations += rows
            instances.append(
                {
                    "token": token_of("instance", self.name, track_id),
                    "category_token": token_of("category", states[present[0]][track_id].category),
                    "nbr_annotations": len(rows),
                    "first_annotation_token": rows[0]["token"],
                    "last_annotation_token": rows[-1]["token"],
                }
            )
        return instances, annotations

    def _annotation(self, keyframe: int, state: ActorState) -> Row:
        seen = self.seen[keyframe].get(state.track_id, Observation())
        world_from_box = np.eye(4)
        world_from_box[:3, :3] = rotation_from_yaw(state.yaw)
        world_from_box[:3, 3] = state.center
        length, width, height = (float(v) for v in state.size_lwh)
        return {
            "token": token_of("sample_annotation", self.name, state.track_id, keyframe),
            "sample_token": self.sample_token(keyframe),
            "instance_token": token_of("instance", self.name, state.track_id),
            "visibility_token": visibility_token(seen.visibility),
            "attribute_tokens": [token_of("attribute", state.attribute)] if state.attribute else [],
            **_pose_fields(world_from_box, GLOBAL_OFFSET_M),
            "size": [width, length, height],
            "prev": "",
            "next": "",
            "num_lidar_pts": seen.lidar_points,
            "num_radar_pts": seen.radar_points,
        }


def fill_gaps(present: list[int], max_gap: int) -> list[int]:
    """Sorted indices -> the same with holes of at most max_gap indices filled: [1, 3, 9] with 2 gives [1, 2, 3, 9]."""
    filled = list(present[:1])
    for index in present[1:]:
        if index - filled[-1] - 1 <= max_gap:
            filled += range(filled[-1] + 1, index)
        filled.append(index)
    return filled


def describe(world: World) -> str:
    """The conditions as the scene's description, e.g. 'day, fog 0.3'."""
    c = world.conditions
    parts = [c.time_of_day] + [
        f"{n} {v:.1f}" for n, v in (("fog", c.fog), ("rain", c.rain), ("cloud", c.cloud)) if v >= 0.05
    ]
    return ", ".join(parts)


def _encode(result: CameraImage | LidarSweep | np.ndarray) -> tuple[str, bytes]:
    if isinstance(result, CameraImage):
        done, data = cv2.imencode(".jpg", result.bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise RuntimeError(f"OpenCV could not encode an image of shape {result.bgr.shape} as JPEG")
        return ".jpg", data.tobytes()
    if isinstance(result, LidarSweep):
        return ".pcd.bin", np.ascontiguousarray(result.points, dtype="<f4").tobytes()
    return ".pcd", radar_pcd(result)


def _pose_fields(a_from_b: np.ndarray, offset: np.ndarray | float = 0.0) -> Row:
    return {
        "translation": (a_from_b[:3, 3] + offset).tolist(),
        "rotation": quaternion_from_rotation(a_from_b[:3, :3]).tolist(),
    }


def _calibrated_row(name: str, channel: str, scale: float) -> Row:
    return {
        "token": token_of("calibrated_sensor", name, channel),
        "sensor_token": token_of("sensor", channel),
        **_pose_fields(RIG[channel].ego_from_sensor),
        "camera_intrinsic": camera_matrix(channel, scale).tolist() if RIG[channel].kind == "camera" else [],
    }


def _chain(rows: list[Row]) -> None:
    for before, after in pairwise(rows):
        before["next"], after["prev"] = after["token"], before["token"]


def _stamp(out: Path, index: int) -> Path:
    return out / ".scenes" / f"{scene_name(index)}.json"


def _finished(out: Path, index: int, settings: DatasetSettings) -> bool:
    path = _stamp(out, index)
    if not path.exists():
        return False
    content = json.loads(path.read_text())
    made_with = (content["format"], content["settings"])
    if made_with != (FORMAT, asdict(settings)):
        raise ValueError(
            f"{path} was made with format {made_with[0]} and {made_with[1]}, asked for is format {FORMAT} and "
            f"{asdict(settings)}; choose another folder or delete {out}"
        )
    return True


def _write_tables(out: Path, scenes: int, version: str, val_every: int) -> None:
    tables: dict[str, list[Row]] = {name: [] for name in TABLES}
    tables.update(static_tables())
    tables["sensor"] = [
        {"token": token_of("sensor", m.name), "channel": m.name, "modality": m.kind} for m in RIG.values()
    ]
    for index in range(scenes):
        for name, rows in json.loads(_stamp(out, index).read_text())["tables"].items():
            tables[name] += rows
    mask = "maps/synthetic.png"
    (out / "maps").mkdir(exist_ok=True)
    write_bytes(out / mask, cv2.imencode(".png", np.full((64, 64), 255, np.uint8))[1].tobytes())
    tables["map"] = [
        {
            "token": token_of("map"),
            "log_tokens": [row["token"] for row in tables["log"]],
            "category": "semantic_prior",
            "filename": mask,
        }
    ]
    (out / version).mkdir(exist_ok=True)
    for name, rows in tables.items():
        write_json(out / version / f"{name}.json", rows)
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for index in range(scenes):
        splits[split_of(index, val_every)].append(scene_name(index))
    write_json(out / "splits.json", splits)
    # Where nuscenes-devkit >= 1.2 looks for splits of one's own; 'train' and 'val' mean nuScenes' own scenes to it.
    write_json(out / version / "splits.json", {f"synthetic_{name}": names for name, names in splits.items()})


def write_json(path: Path, content: Iterable | Row) -> None:
    """Writes JSON atomically."""
    write_bytes(path, json.dumps(content, separators=(",", ":"), allow_nan=False).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file so that it is never seen half written."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    os.replace(part, path)
