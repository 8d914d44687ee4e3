"""What a network is scored against, and the official scores: the same for checkpoints and bundles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bev_perception.decode import Thresholds
from bev_perception.evaluation.metrics import Scores, Tally, add_tallies, score_tally, tally
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.geometry import transform_boxes
from bev_perception.model_spec import ModelSpec
from training.data.nuscenes import Keyframe

SCORE_FLOOR = 0.03  # AP wants the whole curve: far below any threshold that a vehicle would use
RANGES = ((0.0, 20.0), (20.0, 30.0), (30.0, 40.0), (40.0, 50.0))  # metres
CYCLES = ("bicycle", "motorcycle")


def floor_thresholds(spec: ModelSpec) -> Thresholds:
    """Those of scoring: every class down to SCORE_FLOOR."""
    return Thresholds(dict.fromkeys(spec.classes, SCORE_FLOOR), spec.nms_radius)


def ground_truth(keyframe: Keyframe, spec: ModelSpec) -> Objects:
    """The keyframe's annotations in the ego frame, velocities in its plane, as far as the spec's grid reaches.

    That changes nothing for grids of 50 m and more, where the benchmark ends; a network of a smaller one is asked for
    what it can see, and its scores must say so.
    """
    return _annotated(keyframe, spec, keyframe.boxes, keyframe.velocity)


def level_truth(keyframe: Keyframe, spec: ModelSpec) -> Objects:
    """`ground_truth` in the global frame, where annotations stand level and have the velocities of nuscenes-devkit."""
    pose = keyframe.global_from_ego
    return _annotated(keyframe, spec, level_boxes(keyframe.boxes, pose), keyframe.velocity @ pose[:3, :3].T)


def _annotated(keyframe: Keyframe, spec: ModelSpec, boxes: np.ndarray, velocity: np.ndarray) -> Objects:
    names = tuple(spec.classes[i] for i in keyframe.labels)
    objects = make_objects(
        boxes, velocity[:, :2], np.full(len(names), -1.0), names, keyframe.attributes, keyframe.num_points
    )
    return objects.select(spec.grid.cells(keyframe.boxes[:, :2])[1])


def level_boxes(boxes: np.ndarray, world_from_ego: np.ndarray) -> np.ndarray:
    """(M, 7) boxes of the ego frame -> in the world, level there, as the annotations of nuScenes are: the inverse of
    `transform_boxes` of level ones, which keeps their heading as the ego frame's plane shows it."""
    level = transform_boxes(world_from_ego, boxes)
    yaw = np.asarray(boxes, dtype=np.float64).reshape(-1, 7)[:, 6]
    across = np.stack([-np.sin(yaw), np.cos(yaw), np.zeros(len(yaw))], axis=1) @ world_from_ego[:3, :3].T
    level[:, 6] = np.arctan2(-across[:, 0], across[:, 1])  # square to what is across in both planes
    return level


def outside_racks(objects: Objects, racks: np.ndarray) -> Objects:
    """Without the cycles whose centre is in a bicycle rack, (R, 7) boxes of the objects' frame: the benchmark scores
    none there."""
    cycle = np.array([name in CYCLES for name in objects.names], dtype=bool)
    if not len(racks) or not cycle.any():
        return objects
    offset = objects.boxes[:, None, :3] - racks[None, :, :3]
    cos, sin = np.cos(racks[:, 6]), np.sin(racks[:, 6])
    along = offset[..., 0] * cos + offset[..., 1] * sin
    across = offset[..., 1] * cos - offset[..., 0] * sin
    inside = (np.abs(np.stack([along, across, offset[..., 2]], axis=-1)) <= racks[:, 3:6] / 2).all(axis=-1)
    return objects.select(~(cycle & inside.any(axis=1)))


def score_found(
    keyframes: Sequence[Keyframe], spec: ModelSpec, found: Mapping[int, Objects], rows: Sequence[int]
) -> Scores:
    """Official scores of the detections in `rows` of the keyframes, both of the ego frame and compared in the global
    one, as nuscenes-devkit compares a results file with the annotations."""
    return score_tally(add_tallies([tally_found(keyframes[i], spec, found[i]) for i in rows]))


def tally_found(
    keyframe: Keyframe,
    spec: ModelSpec,
    found: Objects,
    where: Callable[[np.ndarray], np.ndarray] | None = None,
    ranges: tuple[tuple[float, float], ...] = RANGES,
) -> Tally:
    """One frame of `score_found`. where: of centres (N, 3) in the ego frame, which count (N,) bool; None: all."""
    pose = keyframe.global_from_ego
    racks = level_boxes(keyframe.racks, pose)
    wanted = level_truth(keyframe, spec)
    if where is not None:
        wanted = wanted.select(where(ground_truth(keyframe, spec).boxes[:, :3]))
        found = found.select(where(found.boxes[:, :3]))
    detected = outside_racks(found.in_world(pose), racks)
    return tally(outside_racks(wanted, racks), detected, pose[:3, 3], ranges)
