"""A made-up data set of nuScenes' size: all tables of v1.0-trainval, and the LiDAR files of as many scenes as one asks
for.

The tables have nuScenes' names, rates and counts: 850 scenes of 20 s, 34,000 keyframes, 2.67 million files and poses,
1.17 million boxes. The world is empty but for boxes that stand along the road and points that lie anywhere; LiDAR files
have as many points as nuScenes', and are links to a few.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nuscenes.utils.splits import create_splits_scenes

from training.data.nuscenes import LIDAR
from training.data.source import Source

CAMERAS = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")
RATES_HZ = dict.fromkeys(CAMERAS, 12) | {LIDAR: 20} | dict.fromkeys(RADARS, 13)
KEYFRAMES, SECONDS = 40, 20.0  # of a scene
# Of each instance: cars and pedestrians are the most frequent.
CATEGORIES = (
    "vehicle.car", "human.pedestrian.adult", "vehicle.truck", "movable_object.barrier", "movable_object.trafficcone",
    "vehicle.bus.rigid", "vehicle.trailer", "vehicle.motorcycle", "vehicle.bicycle", "vehicle.construction",
    "movable_object.debris",
)  # fmt: skip
SHARES = np.array([3, 2, *[1] * 9]) / 14
BOXES = (34, 35)  # of a keyframe, in even and odd scenes
POINTS = 34_700  # of a LiDAR file
CLOUDS = 20  # different LiDAR files
TABLE_NAMES = ("scene", "sample", "sample_data", "ego_pose", "sample_annotation", "instance", "calibrated_sensor")


@dataclass(frozen=True)
class _Tokens:
    """32 hexadecimal digits each, as nuScenes has them: no order in them helps whoever looks one up."""

    rng: np.random.Generator

    def take(self, count: int) -> list[str]:
        digits = self.rng.bytes(16 * count).hex()
        return [digits[i : i + 32] for i in range(0, len(digits), 32)]


def write_tables(root: Path, scenes: int = 850, seed: int = 0) -> Source:
    """Tables of so many scenes, with the names of the official splits. Takes half a minute for all of them."""
    splits = create_splits_scenes()
    names = [*splits["train"], *splits["val"]][:scenes]
    source = Source(root)
    folder = root / source.version
    folder.mkdir(parents=True, exist_ok=True)
    present = {split: [name for name in splits[split] if name in names] for split in ("train", "val")}
    (root / "splits.json").write_text(json.dumps(present))
    tokens = _Tokens(np.random.default_rng(seed))
    sensors = dict(zip(RATES_HZ, tokens.take(len(RATES_HZ)), strict=True))
    categories = tokens.take(len(CATEGORIES))
    attribute, log = tokens.take(2)
    small = {
        "sensor": [{"token": t, "channel": c, "modality": c.split("_")[0].lower()} for c, t in sensors.items()],
        "category": [{"token": t, "name": n} for n, t in zip(CATEGORIES, categories, strict=True)],
        "attribute": [{"token": attribute, "name": "vehicle.parked"}],
        "log": [{"token": log, "vehicle": "n015", "location": "nowhere"}],
    }
    for name, rows in small.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    files = {name: open(folder / f"{name}.json", "w") for name in TABLE_NAMES}
    for number, name in enumerate(names):
        scene = _Scene(number, name, tokens, sensors, categories, attribute, log)
        for table, lines in scene.rows().items():
            files[table].write(("[" if number == 0 else ",") + ",\n".join(lines))
    for file in files.values():
        file.write("]")
        file.close()
    return source


@dataclass(frozen=True)
class _Scene:
    number: int
    name: str
    tokens: _Tokens
    sensors: dict[str, str]
    categories: Sequence[str]
    attribute: str
    log: str

    def rows(self) -> dict[str, list[str]]:
        """Table -> JSON text of each of the scene's rows."""
        scene = self.tokens.take(1)[0]
        samples = self.tokens.take(KEYFRAMES)
        begin_us = 1_530_000_000_000_000 + self.number * 40_000_000
        stamps = [begin_us + 500_000 * k for k in range(KEYFRAMES)]
        data, poses, calibrations = self._files(samples, begin_us)
        annotations, instances = self._objects(samples)
        return {
            "scene": [
                f'{{"token": "{scene}", "log_token": "{self.log}", "nbr_samples": {KEYFRAMES}, "first_sample_token": '
                f'"{samples[0]}", "last_sample_token": "{samples[-1]}", "name": "{self.name}", "description": "made"}}'
            ],
            "sample": [
                f'{{"token": "{token}", "timestamp": {stamp}, "prev": "{before}", "next": "{after}", '
                f'"scene_token": "{scene}"}}'
                for token, stamp, (before, after) in zip(samples, stamps, _neighbours(samples), strict=True)
            ],
            "sample_data": data,
            "ego_pose": poses,
            "sample_annotation": annotations,
            "instance": instances,
            "calibrated_sensor": calibrations,
        }

    def _files(self, samples: Sequence[str], begin_us: int) -> tuple[list[str], list[str], list[str]]:
        data, poses, calibrations = [], [], []
        for channel, rate in RATES_HZ.items():
            (mount,) = self.tokens.take(1)
            camera = channel in CAMERAS
            K = "[[1266.4, 0.0, 816.3], [0.0, 1266.4, 491.5], [0.0, 0.0, 1.0]]" if camera else "[]"
            calibrations.append(
                f'{{"token": "{mount}", "sensor_token": "{self.sensors[channel]}", "translation": [0.94, 0.0, 1.84], '
                f'"rotation": [0.707, -0.006, 0.011, -0.707], "camera_intrinsic": {K}}}'
            )
            size = '"height": 900, "width": 1600' if camera else '"height": 0, "width": 0'
            count = int(rate * SECONDS)
            tokens, of_pose = self.tokens.take(count), self.tokens.take(count)
            key = {round(0.5 * k * rate): sample for k, sample in enumerate(samples)}
            for i, (before, after) in enumerate(_neighbours(tokens)):
                stamp = begin_us + round(1e6 * i / rate)
                sample = samples[min(KEYFRAMES - 1, -(-2 * i // rate))]
                is_key = "true" if i in key else "false"
                data.append(
                    f'{{"token": "{tokens[i]}", "sample_token": "{key.get(i, sample)}", "ego_pose_token": '
                    f'"{of_pose[i]}", "calibrated_sensor_token": "{mount}", "timestamp": {stamp}, "fileformat": '
                    f'"{"jpg" if camera else "pcd"}", "is_key_frame": {is_key}, {size}, "filename": '
                    f'"{_file_name(channel, stamp, i in key)}", "prev": "{before}", "next": "{after}"}}'
                )
                poses.append(
                    f'{{"token": "{of_pose[i]}", "timestamp": {stamp}, "rotation": [0.5720320396729045, '
                    f'-0.0016977771610471074, 0.011798001930183783, -0.8201446642457809], "translation": '
                    f"[{411.3039245 + i / rate}, 1180.8903791765097, 0.0]}}"
                )
        return data, poses, calibrations

    def _objects(self, samples: Sequence[str]) -> tuple[list[str], list[str]]:
        """Objects stand within 25 m of where the vehicle is at the middle of the scene."""
        annotations, instances = [], []
        rng = np.random.default_rng([1, self.number])
        for _ in range(BOXES[self.number % 2]):
            (instance,) = self.tokens.take(1)
            tokens = self.tokens.take(len(samples))
            category = int(rng.choice(len(CATEGORIES), p=SHARES))
            x, y = np.array([421.3, 1180.9]) + rng.uniform(-25, 25, 2)
            yaw = rng.uniform(-np.pi, np.pi)
            for sample, token, (before, after) in zip(samples, tokens, _neighbours(tokens), strict=True):
                annotations.append(
                    f'{{"token": "{token}", "sample_token": "{sample}", "instance_token": "{instance}", '
                    f'"visibility_token": "4", "attribute_tokens": ["{self.attribute}"], "translation": [{x:.3f}, '
                    f'{y:.3f}, 1.0], "size": [2.011, 4.633, 1.573], "rotation": [{np.cos(yaw / 2)}, 0.0, 0.0, '
                    f'{np.sin(yaw / 2)}], "prev": "{before}", "next": "{after}", "num_lidar_pts": 5, '
                    f'"num_radar_pts": 1}}'
                )
            instances.append(
                f'{{"token": "{instance}", "category_token": "{self.categories[category]}", "nbr_annotations": '
                f'{len(samples)}, "first_annotation_token": "{tokens[0]}", "last_annotation_token": "{tokens[-1]}"}}'
            )
        return annotations, instances


def _neighbours(tokens: Sequence[str]) -> Iterator[tuple[str, str]]:
    """prev and next of each row of a chain."""
    return zip(["", *tokens[:-1]], [*tokens[1:], ""], strict=True)


def _file_name(channel: str, stamp: int, key: bool) -> str:
    suffix = "jpg" if channel in CAMERAS else "pcd.bin" if channel == LIDAR else "pcd"
    folder = "samples" if key else "sweeps"
    return f"{folder}/{channel}/n015-2018-07-18-11-07-57+0800__{channel}__{stamp}.{suffix}"


def write_clouds(root: Path, paths: Sequence[str], seed: int = 0) -> None:
    """The LiDAR files of these paths: CLOUDS different ones, and links to them. Points lie within 45 m, from the ground
    to the sensor's height, the denser the nearer: boxes have about as many as nuScenes'."""
    rng = np.random.default_rng(seed)
    kept = []
    for number in range(min(CLOUDS, len(paths))):
        azimuth, distance = rng.uniform(-np.pi, np.pi, POINTS), rng.uniform(2, 45, POINTS)
        cloud = np.zeros((POINTS, 5), dtype="<f4")
        cloud[:, 0], cloud[:, 1] = distance * np.cos(azimuth), distance * np.sin(azimuth)
        cloud[:, 2] = rng.uniform(-1.7, 0, POINTS)
        cloud[:, 3], cloud[:, 4] = rng.integers(0, 256, POINTS), np.arange(POINTS) % 32
        kept.append(root / f"cloud{number}.bin")
        cloud.tofile(kept[-1])
    for number, path in enumerate(paths):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        os.link(kept[number % len(kept)], path)
