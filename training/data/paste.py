"""Objects of other keyframes pasted into a cloud, LiDAR and radar points together (CenterPoint's database sampling).

The database of a training split is built at the start of the first run that wants it, or beforehand
(training.object_database). Images cannot be pasted into, so runs with cameras cannot use it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bev_perception.geometry import box_corners, points_in_box
from bev_perception.model_spec import CLASSES, ModelSpec
from training.data.config import DataConfig, PasteConfig
from training.data.index import find_stored, load_stored, store
from training.data.nuscenes import Keyframe, Keyframes
from training.data.prepared import prepare, prepare_clouds

FORMAT = 1
RADAR_MARGIN_M = 0.5  # radar returns scatter around the object, and their height says nothing
OWN_BOX = np.array([1.4, 0.0, 0.9, 5.2, 2.2, 1.8, 0.0])  # nothing is pasted into the vehicle itself


@dataclass(frozen=True)
class Objects:
    """Boxes (M, 7) and velocity (M, 2) in the ego frame, labels (M,) into CLASSES, and their points: lidar (P, 5),
    radar (P, 7) as the accumulated clouds have them."""

    boxes: np.ndarray
    velocity: np.ndarray
    labels: np.ndarray
    lidar: np.ndarray
    radar: np.ndarray


@dataclass(frozen=True)
class ObjectDatabase:
    """box (O, 7), velocity (O, 2), label (O,); the points of object i are [end[i - 1], end[i]) of lidar and radar."""

    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.arrays["label"])

    def points(self, kind: str, i: int) -> np.ndarray:
        """kind: lidar or radar."""
        ends = self.arrays[f"{kind}_end"]
        return np.array(self.arrays[kind][int(ends[i - 1]) if i else 0 : int(ends[i])])

    def draw(
        self, boxes: np.ndarray, labels: np.ndarray, counts: Sequence[tuple[str, int]], rng: np.random.Generator
    ) -> Objects:
        """Objects that fill a frame with `boxes` and `labels` (into CLASSES) up to `counts`, where they were in their
        own frames. What would overlap, seen from above, with anything there or pasted before is left out."""
        chosen: list[int] = []
        occupied = np.concatenate([boxes, OWN_BOX[None]])
        for name, count in counts:
            label = CLASSES.index(name)
            candidates = np.flatnonzero(self.arrays["label"] == label)
            wanted = min(count - int((labels == label).sum()), len(candidates))
            for i in rng.choice(candidates, max(0, wanted), replace=False):
                box = np.array(self.arrays["box"][i])
                if not overlaps(box, occupied).any():
                    chosen.append(int(i))
                    occupied = np.concatenate([occupied, box[None]])
        return Objects(
            np.array(self.arrays["box"][chosen]).reshape(-1, 7),
            np.array(self.arrays["velocity"][chosen]).reshape(-1, 2),
            np.array(self.arrays["label"][chosen], dtype=np.int64),
            np.concatenate([self.points("lidar", i) for i in chosen] or [np.zeros((0, 5), np.float32)]),
            np.concatenate([self.points("radar", i) for i in chosen] or [np.zeros((0, 7), np.float32)]),
        )


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(7,) and (M, 7) -> (M,) bool: do the footprints overlap? Two rectangles are apart exactly if an axis of one of
    them separates them."""
    a, b = _footprint(box[None]), _footprint(boxes)  # (1, 4, 2), (M, 4, 2)
    apart = np.zeros(len(boxes), dtype=bool)
    for corners in (np.broadcast_to(a, b.shape), b):
        for k in (0, 1):
            axis = corners[:, k + 1] - corners[:, k]
            of_a, of_b = (np.einsum("mkd,md->mk", np.broadcast_to(c, b.shape), axis) for c in (a, b))
            apart |= (of_a.max(axis=1) <= of_b.min(axis=1)) | (of_b.max(axis=1) <= of_a.min(axis=1))
    return ~apart


def _footprint(boxes: np.ndarray) -> np.ndarray:
    """(M, 7) -> (M, 4, 2) corners in turn."""
    return box_corners(boxes)[:, :4, :2]


def without_points_in(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Points of a cloud that are in none of the boxes: pasted objects do not share their place."""
    free = np.ones(len(points), dtype=bool)
    for box in boxes:
        free &= ~points_in_box(points, box)
    return points[free]


def open_database(keyframes: Keyframes, spec: ModelSpec, config: DataConfig) -> ObjectDatabase:
    """The database of these keyframes, built first if there is none. Raises ValueError when nothing qualifies."""
    assert config.paste is not None
    index = keyframes.data_index
    scenes = sorted({index.scenes[i] for i in index.arrays["frame_scene"][keyframes.rows]})
    facts = {
        "format": FORMAT, "index": index.digest, "scenes": scenes, "radars": spec.radars,
        "radar": dataclasses.asdict(spec.radar) if spec.radars else None,
        "lidar": dataclasses.asdict(config.lidar) if config.lidar else None,
        "returns": dataclasses.asdict(config.returns), "least": [config.paste.min_lidar, config.paste.min_radar],
    }  # fmt: skip
    name = "objects-" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    path = find_stored(index.dataroot, name)
    if path is None:
        path = store(index.dataroot, name, build(keyframes, spec, config), facts)
    database = ObjectDatabase(load_stored(path)[0])
    if not len(database):
        raise ValueError(
            f"{index.dataroot}: no object of the split has {config.paste.min_lidar} LiDAR and {config.paste.min_radar} "
            "radar points; lower data.paste.min_lidar or min_radar, or set data.paste to none"
        )
    return database


def build(keyframes: Sequence[Keyframe], spec: ModelSpec, config: DataConfig) -> dict[str, np.ndarray]:
    """Every object of the keyframes that has enough points, with those inside its box."""
    paste = config.paste or PasteConfig()
    found: list[tuple[np.ndarray, np.ndarray, int, np.ndarray, np.ndarray]] = []
    started, shown = time.monotonic(), time.monotonic()
    for number, keyframe in enumerate(keyframes):
        lidar = np.zeros((0, 5), dtype=np.float32)
        if config.lidar is not None:
            lidar = prepare_clouds(keyframe, dataclasses.replace(config, virtual=None)).lidar
        radars = prepare(keyframe, dataclasses.replace(spec, cameras=()), config).radars
        radar = np.concatenate(radars) if radars else np.zeros((0, 7), dtype=np.float32)
        for box, velocity, label in zip(keyframe.boxes, keyframe.velocity, keyframe.labels):
            hits = lidar[points_in_box(lidar, box)]
            flat = radar[:, :3] * [1, 1, 0] + [0, 0, box[2]]
            echoes = radar[points_in_box(flat, box, RADAR_MARGIN_M)]
            seen = config.lidar is None or len(hits) >= paste.min_lidar
            if seen and (not spec.radars or len(echoes) >= paste.min_radar):
                found.append((box, velocity, CLASSES.index(spec.classes[label]), hits, echoes))
        if time.monotonic() - shown > 10:
            shown, done = time.monotonic(), (number + 1) / len(keyframes)
            left = (shown - started) * (1 / done - 1)
            print(f"object database {done:4.0%}, {len(found)} objects, {left:.0f} s left", flush=True)
    return {
        "box": np.array([row[0] for row in found], dtype=np.float64).reshape(-1, 7),
        "velocity": np.array([row[1] for row in found], dtype=np.float64).reshape(-1, 2),
        "label": np.array([row[2] for row in found], dtype=np.int64),
        "lidar": np.concatenate([row[3] for row in found] or [np.zeros((0, 5), np.float32)]),
        "lidar_end": np.cumsum([len(row[3]) for row in found], dtype=np.int64),
        "radar": np.concatenate([row[4] for row in found] or [np.zeros((0, 7), np.float32)]),
        "radar_end": np.cumsum([len(row[4]) for row in found], dtype=np.int64),
    }
