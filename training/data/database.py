"""The database of objects that are pasted (training.data.paste): found on the disk, or built of the training split.

It is built at the start of the first run that wants it, or beforehand (training.object_database): by one process, with
loader processes of its own, while others wait. Points go to the disk as they are found, and what was built when the
process ended is built on.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Subset

from bev_perception.files import write_atomic
from bev_perception.model_spec import CLASSES, ModelSpec
from training.data.config import DataConfig, PasteConfig
from training.data.inside import rows_inside
from training.data.nuscenes import Keyframe, Keyframes
from training.data.paste import ObjectDatabase
from training.data.prepared import prepare, prepare_clouds
from training.data.stored import GrowingArray, load_stored, stored_or_made

FORMAT = 1
RADAR_MARGIN_M = 0.5  # radar returns scatter around the object, and their height says nothing
# Array -> type, columns; `lidar` and `radar` are the points of all objects, one after the other.
COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "box": ("<f8", (7,)),
    "velocity": ("<f8", (2,)),
    "label": ("<i8", ()),
    "lidar": ("<f4", (5,)),
    "lidar_end": ("<i8", ()),
    "radar": ("<f4", (7,)),
    "radar_end": ("<i8", ()),
}
KEYFRAMES_AT_ONCE = 8  # that a loader process hands over
SAVED_EVERY_S = 10.0  # what is built again after a kill, and how often progress is shown
PROGRESS = "progress.json"

Found = dict[str, np.ndarray]


def open_database(
    keyframes: Keyframes, spec: ModelSpec, config: DataConfig, workers: int | None = None
) -> ObjectDatabase:
    """The database of these keyframes, built first if there is none.

    workers: processes that build it, 0 for this one alone; None: `default_workers`.
    Raises ValueError when nothing qualifies, and what reading a keyframe raises.
    """
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
    processes = default_workers() if workers is None else workers

    def make(folder: Path) -> dict[str, Any]:
        build(keyframes, spec, config, folder, processes)
        return {"arrays": sorted(COLUMNS), **facts}

    arrays, _ = load_stored(stored_or_made(index.dataroot, name, "object database", make))
    database = ObjectDatabase({key: np.asarray(array) for key, array in arrays.items()})
    if not len(database):
        raise ValueError(
            f"{index.dataroot}: no object of the split has {config.paste.min_lidar} LiDAR and {config.paste.min_radar} "
            "radar points; lower data.paste.min_lidar or min_radar, or set data.paste to none"
        )
    return database


def default_workers() -> int:
    """A process for every core, those of other ranks too, which wait meanwhile; at most 16, each of which takes
    40 MB, so that all together stay below 1 GB."""
    return min(16, len(os.sched_getaffinity(0)))


def build(keyframes: Sequence[Keyframe], spec: ModelSpec, config: DataConfig, folder: Path, workers: int) -> None:
    """Every object of the keyframes that has enough points, with those inside its box, into .npy files of `folder`.

    Goes on where an earlier process ended.
    """
    done, arrays = _begin(folder)
    started, saved, first = time.monotonic(), time.monotonic(), done
    for found in _found(keyframes, spec, config, done, workers):
        for kind in ("lidar", "radar"):
            found[f"{kind}_end"] = arrays[kind].rows + np.cumsum(found.pop(f"{kind}_count"))
        for name, array in arrays.items():
            array.append(found[name])
        done = min(len(keyframes), done + KEYFRAMES_AT_ONCE)
        if time.monotonic() - saved > SAVED_EVERY_S:
            _save(folder, done, arrays)
            saved = time.monotonic()
            left = (saved - started) * (len(keyframes) - done) / (done - first)
            gigabytes = sum(path.stat().st_size for path in folder.glob("*.npy")) / 1e9
            objects = f"{arrays['label'].rows} objects, {gigabytes:.1f} GB"
            print(f"object database {done / len(keyframes):4.0%}, {objects}, {left:.0f} s left", flush=True)
    for array in arrays.values():
        array.flush()
        array.close()
    (folder / PROGRESS).unlink(missing_ok=True)


def objects_of(keyframe: Keyframe, spec: ModelSpec, config: DataConfig) -> Found:
    """box (M, 7), velocity (M, 2), label (M,) into CLASSES of a keyframe's objects with enough points; those points
    (lidar, radar), and how many each object has (lidar_count, radar_count)."""
    paste = config.paste or PasteConfig()
    lidar = np.zeros((0, 5), dtype=np.float32)
    if config.lidar is not None:
        lidar = prepare_clouds(keyframe, dataclasses.replace(config, virtual=None)).lidar
    radars = prepare(keyframe, dataclasses.replace(spec, cameras=()), config).radars
    radar = np.concatenate([np.zeros((0, 7), dtype=np.float32), *radars])
    level = radar[:, :3] * np.array([1, 1, 0], dtype=np.float32)
    hits = rows_inside(lidar, keyframe.boxes)
    echoes = rows_inside(level, keyframe.boxes * [1, 1, 0, 1, 1, 1, 1], RADAR_MARGIN_M)
    kept = [
        i
        for i in range(len(keyframe.boxes))
        if (config.lidar is None or len(hits[i]) >= paste.min_lidar)
        and (not spec.radars or len(echoes[i]) >= paste.min_radar)
    ]
    none = np.zeros(0, dtype=np.int64)
    return {
        "box": keyframe.boxes[kept],
        "velocity": keyframe.velocity[kept, :2],
        "label": np.array([CLASSES.index(spec.classes[k]) for k in keyframe.labels[kept]], dtype=np.int64),
        "lidar": lidar[np.concatenate([none, *(hits[i] for i in kept)])],
        "lidar_count": np.array([len(hits[i]) for i in kept], dtype=np.int64),
        "radar": radar[np.concatenate([none, *(echoes[i] for i in kept)])],
        "radar_count": np.array([len(echoes[i]) for i in kept], dtype=np.int64),
    }


@dataclasses.dataclass(frozen=True)
class _Objects(Dataset[Found | Exception]):
    """Item i: `objects_of` keyframe i, or what it raised: a loader process would bury its words in a traceback."""

    keyframes: Sequence[Keyframe]
    spec: ModelSpec
    config: DataConfig

    def __getitem__(self, i: int) -> Found | Exception:
        try:
            return objects_of(self.keyframes[i], self.spec, self.config)
        except (ValueError, OSError) as error:
            return error


def _found(
    keyframes: Sequence[Keyframe], spec: ModelSpec, config: DataConfig, first: int, workers: int
) -> Iterator[Found]:
    """Objects of the keyframes from `first` on, of KEYFRAMES_AT_ONCE at a time, in order."""
    rows = Subset(_Objects(keyframes, spec, config), range(first, len(keyframes)))
    workers = min(workers, len(rows) // KEYFRAMES_AT_ONCE)
    for found in DataLoader(rows, KEYFRAMES_AT_ONCE, num_workers=workers, collate_fn=_joined):
        if isinstance(found, Exception):
            raise found
        yield found


def _joined(items: Sequence[Found | Exception]) -> Found | Exception:
    found: list[Found] = []
    for item in items:
        if isinstance(item, Exception):
            return item
        found.append(item)
    return {name: np.concatenate([item[name] for item in found]) for name in found[0]}


def _begin(folder: Path) -> tuple[int, Mapping[str, GrowingArray]]:
    """Keyframes that are done, and the arrays with their objects."""
    path = folder / PROGRESS
    saved: dict[str, Any] = (
        json.loads(path.read_text()) if path.is_file() else {"keyframes": 0, "rows": dict.fromkeys(COLUMNS, 0)}
    )
    arrays = {name: GrowingArray(folder / f"{name}.npy", *COLUMNS[name], saved["rows"][name]) for name in COLUMNS}
    if saved["keyframes"]:
        print(f"object database: {saved['keyframes']} keyframes were done before", flush=True)
    return saved["keyframes"], arrays


def _save(folder: Path, done: int, arrays: Mapping[str, GrowingArray]) -> None:
    for array in arrays.values():
        array.flush()
    write_atomic(folder / PROGRESS, json.dumps({"keyframes": done, "rows": {n: a.rows for n, a in arrays.items()}}))
