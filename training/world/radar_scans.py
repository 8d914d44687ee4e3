"""Keyframes as the comparison of radars wants them: the front radar's scan among boxes, from recordings or the town."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_perception.geometry import make_transform, rotation_from_quaternion, rotation_from_yaw
from training.world.generate import keyframe_stamps
from training.world.lidar import scan_lidar
from training.world.listed_radar import ListedRadar, scan_radar_as
from training.world.observation import ANNOTATION_RANGE_M
from training.world.radar import DTYPE
from training.world.radar_statistics import in_boxes
from training.world.rig import scan_rng
from training.world.styles import TOWN, Style
from training.world.world import World, make_world

Floats = NDArray[np.float64]
FRONT = "RADAR_FRONT"
# Names of the recorded boxes that the town has no class for; they are obstacles, not clutter.
OTHER = "other"


@dataclass(frozen=True)
class Boxes:
    """M objects at the time of the front radar's scan: class, track, box (M, 7) x y z l w h yaw and velocity (M, 2) in
    the global frame, distance of each from the vehicle (m), LiDAR points, returns of all radars as nuScenes counts."""

    names: NDArray[np.str_]
    tracks: NDArray[np.str_]
    boxes: Floats
    velocities: Floats
    distances: Floats
    lidar_points: NDArray[np.int64]
    radar_returns: NDArray[np.int64]


@dataclass(frozen=True)
class KeyScan:
    """One keyframe: drive and time (s), the front radar's returns (P,) `DTYPE`, its pose (4, 4), and the boxes, None
    where the recording has none. Scans of a drive come in the order of time."""

    drive: str
    time: float
    returns: NDArray[np.void]
    global_from_radar: Floats
    boxes: Boxes | None


def recorded(folder: str | Path) -> list[KeyScan]:
    """The scans below FOLDER/nuscenes: scene-0103 with boxes and poses, scene-0061 with speeds and yaw rates only.

    Raises FileNotFoundError naming what is missing.
    """
    root = Path(folder)
    root = root if (root / "scene-0103_frames.json").is_file() else root / "nuscenes"
    needed = ("rigs.json", "scene-0103_frames.json", "scene-0103_gt_global.json", "scene-0061_sequence.json")
    absent = [name for name in needed if not (root / name).is_file()]
    if absent:
        raise FileNotFoundError(f"{root}: {absent} are missing; give --real the folder that has the recordings")
    rigs = json.loads((root / "rigs.json").read_text())
    return _with_poses(root, _mount(rigs["n008"])) + _with_speeds(root, _mount(rigs["n015"]))


def _mount(rig: dict[str, Any]) -> Floats:
    return make_transform(
        rotation_from_quaternion(np.array(rig[FRONT]["rotation"])), np.array(rig[FRONT]["translation"])
    )


def _with_poses(root: Path, ego_from_radar: Floats) -> list[KeyScan]:
    truth = json.loads((root / "scene-0103_gt_global.json").read_text())
    scans = []
    for row in json.loads((root / "scene-0103_frames.json").read_text()):
        radar = row["radar_front"]
        rotation = rotation_from_quaternion(np.array(row["ego2global_rotation_wxyz"]))
        ego = make_transform(rotation, np.array(row["ego2global_translation"]))
        late = (radar["timestamp_us"] - row["timestamp_us"]) / 1e6
        pose = ego @ _moved(radar["ego_vx_mps"], radar["ego_yawrate_radps"], late) @ ego_from_radar
        boxes = _boxes(truth[row["sample_token"]], ego[:2, 3], late)
        scans.append(KeyScan("scene-0103", radar["timestamp_us"] / 1e6, _read(root, radar["csv"]), pose, boxes))
    return scans


def _with_speeds(root: Path, ego_from_radar: Floats) -> list[KeyScan]:
    """Poses integrated from speed and yaw rate: good from one keyframe to the next, which is all that is asked."""
    scans, ego, before = [], np.eye(4), None
    for row in json.loads((root / "scene-0061_sequence.json").read_text()):
        name = row["radar_front_csv"]
        stamp = int(Path(name).stem.rpartition("__")[2]) / 1e6
        if before is not None:
            time, speed, turn = before
            mean = ((speed + row["ego_vx_mps"]) / 2, (turn + row["ego_yawrate_radps"]) / 2)
            ego = ego @ _moved(*mean, stamp - time)
        before = stamp, row["ego_vx_mps"], row["ego_yawrate_radps"]
        scans.append(KeyScan("scene-0061", stamp, _read(root, name), ego @ ego_from_radar, None))
    return scans


def _read(root: Path, name: str) -> NDArray[np.void]:
    table = np.loadtxt(root / "radar_front" / name, delimiter=",", skiprows=1, ndmin=2)[:, 1:]
    returns = np.zeros(len(table), DTYPE)
    for column, field in enumerate(DTYPE.names or ()):
        returns[field] = table[:, column]
    return returns


def _moved(speed: float, turn: float, seconds: float) -> Floats:
    """Pose after driving so for a while: half the turn, the way, the other half."""
    half = make_transform(rotation_from_yaw(turn * seconds / 2), np.zeros(3))
    return half @ make_transform(np.eye(3), np.array([speed * seconds, 0.0, 0.0])) @ half


def _boxes(rows: Sequence[dict[str, Any]], ego: Floats, late: float) -> Boxes:
    known = set(RADAR_CLASSES)
    names = np.array([r["detection_name"] if r["detection_name"] in known else OTHER for r in rows])
    velocities = np.array([_numbers(r["velocity"]) for r in rows]).reshape(-1, 2)
    rotations = [rotation_from_quaternion(np.array(r["rotation"])) for r in rows]
    boxes = np.array(
        [
            [*r["translation"], r["size"][1], r["size"][0], r["size"][2], np.arctan2(R[1, 0], R[0, 0])]
            for r, R in zip(rows, rotations)
        ]
    ).reshape(-1, 7)
    distances = np.hypot(*(boxes[:, :2] - ego).T)
    boxes[:, :2] += velocities * late
    # nuScenes' boxes of one object all have one size, which is enough to tell objects of a class apart.
    tracks = np.array([f"{r['detection_name']} {r['size']}" for r in rows])
    counts = [np.array([r[name] for r in rows], dtype=np.int64) for name in ("num_lidar_pts", "num_radar_pts")]
    return Boxes(names, tracks, boxes, velocities, distances, *counts)


def _numbers(velocity: Sequence[float | None] | None) -> list[float]:
    """Unknown speeds, of objects that were annotated once, count as none."""
    return [0.0 if v is None or np.isnan(v) else float(v) for v in (velocity or (None, None))]


RADAR_CLASSES = (
    "car", "truck", "bus", "trailer", "construction_vehicle", "pedestrian", "motorcycle", "bicycle", "traffic_cone",
    "barrier",
)  # fmt: skip


def simulated(radar: ListedRadar | None, seeds: Sequence[int], duration_s: float, style: Style = TOWN) -> list[KeyScan]:
    """The same of drives of the town, or of another style of world; radars (of None `clear`) and LiDAR are made here
    and stored nowhere."""
    scans = []
    for seed in seeds:
        world = make_world(seed, duration_s, style=style)
        scans += [_keyframe(world, radar, stamp) for stamp in keyframe_stamps(duration_s)]
    return scans


def _keyframe(world: World, radar: ListedRadar | None, stamp_ns: int) -> KeyScan:
    sweep = scan_lidar(world, world.rig.mounts["LIDAR_TOP"], stamp_ns, scan_rng(world.seed, "LIDAR_TOP", stamp_ns))
    ids, counts = np.unique(sweep.instance, return_counts=True)
    points = dict(zip(ids.tolist(), counts.tolist()))
    states = world.actor_states(stamp_ns, ANNOTATION_RANGE_M)
    boxes = np.array([[*s.center, *s.size_lwh, s.yaw] for s in states]).reshape(-1, 7)
    returns = np.zeros(len(states), np.int64)
    front, pose = np.zeros(0, DTYPE), np.eye(4)
    for channel in (name for name, mount in world.rig.mounts.items() if mount.kind == "radar"):
        scan = scan_radar_as(radar, world, world.rig.mounts[channel], stamp_ns, scan_rng(world.seed, channel, stamp_ns))
        world_from_radar = world.ego_pose(stamp_ns) @ world.rig.mounts[channel].ego_from_sensor
        returns += in_boxes(placed(scan, world_from_radar), boxes).sum(axis=1)
        if channel == FRONT:
            front, pose = scan, world_from_radar
    ego = world.ego_pose(stamp_ns)[:2, 3]
    found = Boxes(
        np.array([s.name for s in states]),
        np.array([f"{world.seed} {s.track_id}" for s in states]),
        boxes,
        np.array([s.velocity[:2] for s in states]).reshape(-1, 2),
        np.hypot(*(boxes[:, :2] - ego).T),
        np.array([points.get(s.track_id, 0) for s in states], dtype=np.int64),
        returns,
    )
    return KeyScan(f"drive {world.seed}", stamp_ns / 1e9, front, pose, found)


def placed(returns: NDArray[np.void], global_from_radar: Floats) -> Floats:
    """(P, 3) where the returns are in the global frame."""
    local = np.stack([returns["x"], returns["y"], returns["z"]], axis=1).astype(float)
    return local @ global_from_radar[:3, :3].T + global_from_radar[:3, 3]
