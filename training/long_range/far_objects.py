"""The objects of a keyframe as an annotator of images gives them, and the 3D boxes that are made of that.

The 3D boxes of far objects are held back: here, and nowhere else, they stand for the annotator and become 2D boxes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bev_perception.model_spec import CLASSES, ModelSpec
from bev_perception.preprocess.radar import accumulate, within_limits
from training.data.nuscenes import Keyframe
from training.data.sensor_frame import sensor_frame, sensor_from_ego
from training.long_range.near_objects import distances
from training.long_range.network import InverseHead
from training.long_range.pseudo import Looks, Pseudo, join, look, pseudo_boxes
from training.long_range.views import Floats, read_image, views

Maker = Callable[[Looks], Pseudo]


@dataclasses.dataclass(frozen=True)
class Seen:
    """rows (N,) into a keyframe's objects, each once, and how one camera sees them."""

    rows: NDArray[np.int64]
    looks: Looks


def far_rows(keyframe: Keyframe, labelled_to: float) -> NDArray[np.int64]:
    """Objects without a 3D label."""
    return np.flatnonzero(distances(keyframe) > labelled_to)


def seen_objects(
    keyframe: Keyframe, rows: NDArray[np.int64], spec: ModelSpec, side: int, whole_pixels: bool = False
) -> list[Seen]:
    """Those of `rows` that are whole in an image, in that in which they are largest; a Seen for each camera that has
    some. whole_pixels: the edges of 2D boxes are those of pixels, as a person with a mouse draws them."""
    cameras = list(keyframe.cameras.values())
    found = [views(keyframe.boxes[rows], sensor_from_ego(keyframe, file), file) for file in cameras]
    area = np.zeros((len(cameras), len(rows)))
    boxes = np.zeros((len(cameras), len(rows), 4))
    for k, seen in enumerate(found):
        boxes[k, seen.rows] = seen.boxes
        area[k, seen.rows] = np.prod(seen.boxes[:, 2:] - seen.boxes[:, :2], axis=1)
    if whole_pixels:
        boxes = np.round(boxes + 0.5) - 0.5  # pixel centres are whole numbers, their edges are not
        boxes[..., 2:] = np.maximum(boxes[..., 2:], boxes[..., :2] + 1)
    best = area.argmax(axis=0) if len(cameras) else np.zeros(0, dtype=int)
    to_class = np.array([CLASSES.index(name) for name in spec.classes])
    parts = []
    for k, file in enumerate(cameras):
        own = np.flatnonzero((best == k) & (area[k] > 0))
        if len(own):
            labels, cam_from_ego = to_class[keyframe.labels[rows[own]]], sensor_from_ego(keyframe, file)
            assert file.K is not None
            looks = look(read_image(file.path), boxes[k, own], labels, file.K, cam_from_ego, side)
            parts.append(Seen(rows[own], looks))
    return parts


def radar_returns(keyframe: Keyframe, spec: ModelSpec) -> Floats:
    """(P, 3) of all radars, compensated, in the ego frame at the keyframe's stamp. Raises ValueError naming a file that
    is broken."""
    alone = dataclasses.replace(spec, cameras=())
    points = accumulate(sensor_frame(keyframe, alone), alone)
    return points[within_limits(points, spec.radar)][:, :3].astype(np.float64)


def made(parts: list[Seen], make: Maker) -> tuple[NDArray[np.int64], Pseudo]:
    """Rows, and what `make` says of them."""
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *(part.rows for part in parts)]), join([make(part.looks) for part in parts])


def by_head(head: InverseHead, returns: Floats | None = None) -> Maker:
    """As `pseudo_boxes`."""
    return lambda looks: pseudo_boxes(head, looks, returns)
