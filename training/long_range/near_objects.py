"""What the head learns from: crops of the near objects of some keyframes, with where and how they stand.

Objects beyond the range are put aside before anything else is done with a keyframe: nothing of their 3D boxes is read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_perception.files import write_atomic
from bev_perception.geometry import transform_points
from bev_perception.model_spec import CLASSES
from training.data.nuscenes import Keyframe, Keyframes
from training.data.sensor_frame import sensor_from_ego
from training.data.stored import GrowingArray, load_stored, stored_or_made
from training.long_range.views import bearing, corners_in_camera, crop, read_image, views

FORMAT = 1  # raise it when the arrays change
PROGRESS = "progress.json"
SAVED_EVERY_S = 10.0
# Of each crop: class; centre (3,) and corners (8, 3) in the camera's frame, m; focal lengths, px; length, width,
# height, m; yaw relative to the ray, rad.
COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "label": ("<i8", ()),
    "centre": ("<f4", (3,)),
    "corners": ("<f4", (8, 3)),
    "focal": ("<f4", (2,)),
    "size": ("<f4", (3,)),
    "turn": ("<f4", ()),
}
Found = dict[str, NDArray[Any]]


def distances(keyframe: Keyframe) -> NDArray[np.float64]:
    """(M,) m from the vehicle, on the ground."""
    return np.hypot(keyframe.boxes[:, 0], keyframe.boxes[:, 1])


def near_part(keyframe: Keyframe, labelled_to: float) -> Keyframe:
    """The keyframe as if nothing beyond `labelled_to` metres had a 3D box."""
    near = distances(keyframe) <= labelled_to
    return dataclasses.replace(
        keyframe, boxes=keyframe.boxes[near], velocity=keyframe.velocity[near], labels=keyframe.labels[near],
        num_points=keyframe.num_points[near], attributes=(), racks=keyframe.racks[:0],
    )  # fmt: skip


def near_objects(keyframe: Keyframe, classes: Sequence[str], labelled_to: float, side: int) -> Found:
    """`crop` (N, side, side, 3) uint8 and COLUMNS of every near object in every camera's image. Raises ValueError
    naming an image that cannot be read."""
    near = near_part(keyframe, labelled_to)
    to_class = np.array([CLASSES.index(name) for name in classes])
    parts: list[Found] = []
    for file in near.cameras.values():
        cam_from_ego = sensor_from_ego(near, file)
        seen = views(near.boxes, cam_from_ego, file)
        if not len(seen.rows):
            continue
        image, boxes = read_image(file.path), near.boxes[seen.rows]
        centre = transform_points(cam_from_ego, boxes[:, :3])
        assert file.K is not None
        parts.append(
            {
                "crop": np.stack([crop(image, box, side) for box in seen.boxes]),
                "label": to_class[near.labels[seen.rows]],
                "centre": centre,
                "corners": corners_in_camera(boxes, cam_from_ego),
                "focal": np.tile([file.K[0, 0], file.K[1, 1]], (len(boxes), 1)),
                "size": boxes[:, 3:6],
                "turn": boxes[:, 6] - bearing(centre @ cam_from_ego[:3, :3]),
            }
        )
    columns = columns_of(side)
    return {
        name: np.concatenate([np.zeros((0, *shape), kind), *(part[name] for part in parts)])
        for name, (kind, shape) in columns.items()
    }


def columns_of(side: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Array -> type and shape of a row."""
    return {"crop": ("|u1", (side, side, 3)), **COLUMNS}


def open_near_objects(keyframes: Keyframes, labelled_to: float, side: int) -> Found:
    """Of all keyframes, mapped into memory; made first where that was not done, beside the set's index. Raises
    ValueError where there is none, and as `near_objects` does."""
    index = keyframes.data_index
    scenes = sorted({index.scenes[i] for i in index.arrays["frame_scene"][keyframes.rows]})
    facts = {"format": FORMAT, "index": index.digest, "scenes": scenes, "cameras": keyframes.spec.cameras,
             "labelled_to": labelled_to, "side": side}  # fmt: skip
    name = "near-" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def make(folder: Path) -> dict[str, Any]:
        _collect(keyframes, labelled_to, side, folder)
        return {"arrays": sorted(columns_of(side)), **facts}

    arrays, _ = load_stored(stored_or_made(index.dataroot, name, "near objects", make))
    if not len(arrays["label"]):
        raise ValueError(
            f"{index.dataroot}: no object within {labelled_to:g} m is whole in an image; raise --labelled-to"
        )
    return arrays


def _collect(keyframes: Keyframes, labelled_to: float, side: int, folder: Path) -> None:
    """Into .npy files of `folder`; goes on where an earlier process ended."""
    columns, path = columns_of(side), folder / PROGRESS
    before = json.loads(path.read_text()) if path.is_file() else {"keyframes": 0, "rows": 0}
    arrays = {name: GrowingArray(folder / f"{name}.npy", *columns[name], before["rows"]) for name in columns}
    saved = started = time.monotonic()
    for i in range(before["keyframes"], len(keyframes)):
        found = near_objects(keyframes[i], keyframes.spec.classes, labelled_to, side)
        for name, array in arrays.items():
            array.append(found[name])
        if time.monotonic() - saved > SAVED_EVERY_S:
            saved, done = time.monotonic(), i + 1
            for array in arrays.values():
                array.flush()
            write_atomic(path, json.dumps({"keyframes": done, "rows": arrays["label"].rows}))
            left = (saved - started) / (done - before["keyframes"]) * (len(keyframes) - done)
            print(f"near objects {done / len(keyframes):4.0%}, {arrays['label'].rows}, {left:.0f} s left", flush=True)
    for array in arrays.values():
        array.flush()
        array.close()
    path.unlink(missing_ok=True)
