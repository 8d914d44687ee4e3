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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.plain import AddedLater, from_plain, to_plain
from training.changes import differences
from training.tables.files import radar_pcd, write_json, write_tables
from training.tables.rows import Row, annotation_row, data_row, pose_fields, sample_token, scene_tables
from training.tables.vocabulary import token_of, visibility_token
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
from training.world.listed_radar import ListedRadar
from training.world.observation import (
    ANNOTATION_RANGE_M,
    Observation,
    Snapshot,
    camera_matrix,
    merge,
    observe,
    snapshot,
)
from training.world.rig import NUSCENES, Rig, SensorMount
from training.world.styles import TOWN, Style
from training.world.world import World

GLOBAL_OFFSET_M = np.array([600.0, 1600.0, 0.0])
SCENES_PER_SEED = 1000
MAX_GAP = 2
JPEG_QUALITY = 95
FORMAT = 1  # raise it when the files of a scene change, so that old and new scenes are never mixed


@dataclass(frozen=True)
class DatasetSettings:
    """Everything the bytes of a scene depend on besides its index."""

    seed: int = 0
    duration_s: float = 20.0
    scale: float = 0.22
    rates: Rates = field(default_factory=Rates)
    radar: ListedRadar | None = None  # None: the profile `clear`
    style: Style = TOWN
    rig: Rig = NUSCENES

    def scene_seed(self, index: int) -> int:
        """The world seed of scene `index`. Raises ValueError beyond SCENES_PER_SEED, where seeds would repeat."""
        if not 0 <= index < SCENES_PER_SEED:
            raise ValueError(f"a data set has at most {SCENES_PER_SEED} scenes per seed, found index {index}")
        return self.seed * SCENES_PER_SEED + index


# What scenes that lack a field were made with.
ADDED_LATER: AddedLater = {DatasetSettings: {"radar": None, "style": TOWN, "rig": NUSCENES}}


def settings_of(content: dict[str, Any], path: Path) -> DatasetSettings:
    """Of a finished scene's file, `path`, which holds `content`."""
    settings: DatasetSettings = from_plain(DatasetSettings, content["settings"], f"{path}: settings", ADDED_LATER)
    return settings


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
    splits = splits_of(scenes, val_every)
    if todo or not _has_tables(out, version, splits):  # an index is of tables as they were: those that fit stay
        _write_tables(out, scenes, settings.rig, version, splits)
    return summary(progress)


def splits_of(scenes: int, val_every: int) -> dict[str, list[str]]:
    """Names of the scenes of each split: every val_every-th validates, of fewer (but two) the last.

    Conditions are drawn per scene at random, so both splits have all of them.
    """
    every = max(2, min(val_every, scenes))
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for index in range(scenes):
        splits["val" if index % every == every - 1 else "train"].append(scene_name(index))
    return splits


def scene_name(index: int) -> str:
    return f"scene-{index:04d}"


def write_scene(task: tuple[str, int, DatasetSettings]) -> tuple[int, int]:
    """(OUT, index, settings): writes the scene's files, and its rows last; returns (keyframes, images) written."""
    out, index, settings = Path(task[0]), task[1], task[2]
    name, seed = scene_name(index), settings.scene_seed(index)
    world = world_of(seed, settings.duration_s, settings.style, settings.rig)
    scene = _SceneRows(name, epoch_ns(seed), keyframe_stamps(settings.duration_s), world, settings.scale)
    for scan in plan_drive(settings.duration_s, settings.rates, world.rig.mounts):
        result = take(world, scan, seed, settings.scale, settings.radar)
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
            self.calibrated[scan.channel] = _calibrated_row(self.name, self.world.rig.mounts[scan.channel], self.scale)
        token = token_of("sample_data", self.name, scan.channel, scan.stamp_ns)
        calibrated = self.calibrated[scan.channel]["token"]
        sample_of = sample_token(self.name, sample)
        self.data.append(data_row(token, sample_of, calibrated, stamp_us, filename, key, (width, height)))
        world_from_ego = self.world.ego_pose(scan.stamp_ns)
        self.poses.append({"token": token, "timestamp": stamp_us, **pose_fields(world_from_ego, GLOBAL_OFFSET_M)})
        return filename, data

    def _actors_at(self, keyframe: int) -> Snapshot:
        if self.actors is None or self.actors.stamp_ns != self.keyframes[keyframe]:
            self.actors = snapshot(self.world, self.keyframes[keyframe])
        return self.actors

    def finish(self) -> dict[str, list[Row]]:
        """All rows of the scene, chained."""
        log = {
            "token": token_of("log", self.name),
            "logfile": self.name,
            "vehicle": "synthetic",
            "date_captured": "2023-11-14",
            "location": "synthetic",
        }
        stamps_us = [(self.start_ns + stamp) // 1000 for stamp in self.keyframes]
        calibrated = list(self.calibrated.values())
        return scene_tables(
            self.name, describe(self.world), log, stamps_us, self.data, self.poses, calibrated, self._tracks()
        )

    def _tracks(self) -> dict[str, list[Row]]:
        """Track -> its annotations, in the order of time."""
        states: list[dict[int, ActorState]] = [
            {s.track_id: s for s in self.world.actor_states(stamp, ANNOTATION_RANGE_M)} for stamp in self.keyframes
        ]
        tracks = {}
        for track_id in sorted({track_id for at_keyframe in states for track_id in at_keyframe}):
            near = [k for k, at_keyframe in enumerate(states) if track_id in at_keyframe]
            observed = [k for k in near if track_id in self.seen[k] and self.seen[k][track_id].seen]
            present = [k for k in fill_gaps(observed, MAX_GAP) if k in near]
            if present:
                tracks[str(track_id)] = [self._annotation(k, states[k][track_id]) for k in present]
        return tracks

    def _annotation(self, keyframe: int, state: ActorState) -> Row:
        seen = self.seen[keyframe].get(state.track_id, Observation())
        world_from_box = make_transform(rotation_from_yaw(state.yaw), state.center)
        return annotation_row(
            self.name,
            keyframe,
            str(state.track_id),
            state.category,
            world_from_box,
            state.size_lwh.tolist(),
            state.attribute,
            visibility_token(seen.visibility),
            seen.lidar_points,
            seen.radar_points,
            GLOBAL_OFFSET_M,
        )


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


def _calibrated_row(name: str, mount: SensorMount, scale: float) -> Row:
    return {
        "token": token_of("calibrated_sensor", name, mount.name),
        "sensor_token": token_of("sensor", mount.name),
        **pose_fields(mount.ego_from_sensor),
        "camera_intrinsic": camera_matrix(mount, scale).tolist() if mount.kind == "camera" else [],
    }


def _stamp(out: Path, index: int) -> Path:
    return out / ".scenes" / f"{scene_name(index)}.json"


def _finished(out: Path, index: int, settings: DatasetSettings) -> bool:
    path = _stamp(out, index)
    if not path.exists():
        return False
    content = json.loads(path.read_text())
    made = {"format": content["format"], **to_plain(settings_of(content, path))}
    if unlike := differences(made, {"format": FORMAT, **to_plain(settings)}):
        raise ValueError(
            f"{path} was made with other settings than those asked for: {'; '.join(unlike)}; choose another folder or "
            f"delete {out}"
        )
    return True


def _has_tables(out: Path, version: str, splits: dict[str, list[str]]) -> bool:
    """Whether whole tables over exactly these scenes are there; splits.json is written when they are."""
    path = out / "splits.json"
    return (out / version).is_dir() and path.is_file() and json.loads(path.read_bytes()) == splits


def _write_tables(out: Path, scenes: int, rig: Rig, version: str, splits: dict[str, list[str]]) -> None:
    rows = (json.loads(_stamp(out, index).read_text())["tables"] for index in range(scenes))
    write_tables(out, version, rows, {sensor.name: sensor.kind for sensor in rig.sensors}, splits, "synthetic")
