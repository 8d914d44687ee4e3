"""Objects of one frame as plain arrays: what ground truth, recorded detections and fresh detections are compared as."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_perception.geometry import transform_boxes
from bev_perception.structures import Detections

MOVING_SPEED = 0.7  # m/s; above it the attribute heuristic says moving (0.7 to 1.0 is best on training drives)
# name: (attribute when moving, attribute when not). Cones and barriers have none.
ATTRIBUTES = {
    "car": ("vehicle.moving", "vehicle.parked"),
    "truck": ("vehicle.moving", "vehicle.parked"),
    "construction_vehicle": ("vehicle.moving", "vehicle.parked"),
    "trailer": ("vehicle.moving", "vehicle.parked"),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
}


@dataclass(frozen=True)
class Objects:
    """M objects of one frame, all in one frame of reference (ego at the stamp, unless a function says otherwise).

    boxes (M, 7) float64 x y z l w h yaw (gravity centre, m, rad); velocity (M, 2) float64 m/s over ground, NaN if
    unknown; scores (M,) float64; names: M class names; attributes: M nuScenes attributes, "" for none;
    num_points (M,) int64 LiDAR and radar points inside, -1: not counted (detections); ids: M instance ids, "" for none.
    """

    boxes: np.ndarray
    velocity: np.ndarray
    scores: np.ndarray
    names: tuple[str, ...]
    attributes: tuple[str, ...]
    num_points: np.ndarray
    ids: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, mask: np.ndarray) -> Objects:
        """The objects where `mask` (M,) bool is true, in the same order."""
        kept = np.flatnonzero(mask)
        return Objects(
            self.boxes[kept],
            self.velocity[kept],
            self.scores[kept],
            tuple(self.names[i] for i in kept),
            tuple(self.attributes[i] for i in kept),
            self.num_points[kept],
            tuple(self.ids[i] for i in kept),
        )

    def later(self, seconds: float) -> Objects:
        """The objects so many seconds later, at their velocity; one that has none stays."""
        boxes = self.boxes.copy()
        boxes[:, :2] += np.nan_to_num(self.velocity) * seconds
        return dataclasses.replace(self, boxes=boxes)

    def in_world(self, world_from_ego: np.ndarray) -> Objects:
        """The objects of an ego frame as a results file has them: centres, headings and velocities follow the rotation
        of (4, 4) world_from_ego, in which a velocity lies in the ego frame's plane."""
        moved = np.column_stack([self.velocity, np.zeros(len(self))]) @ world_from_ego[:3, :3].T
        return dataclasses.replace(self, boxes=transform_boxes(world_from_ego, self.boxes), velocity=moved[:, :2])


def make_objects(
    boxes: np.ndarray,
    velocity: np.ndarray,
    scores: np.ndarray,
    names: tuple[str, ...],
    attributes: tuple[str, ...] | None = None,
    num_points: np.ndarray | None = None,
    ids: tuple[str, ...] | None = None,
) -> Objects:
    """Arrays -> Objects, shapes checked. Without `attributes`, they follow from the speed (`attribute_by_speed`).

    Raises ValueError where the lengths differ.
    """
    count = len(names)
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 7)
    velocity = np.asarray(velocity, dtype=np.float64).reshape(-1, 2)
    scores = np.asarray(scores, dtype=np.float64).reshape(-1)
    if attributes is None:
        attributes = tuple(attribute_by_speed(n, float(np.hypot(*v))) for n, v in zip(names, velocity))
    num_points = np.full(count, -1, dtype=np.int64) if num_points is None else np.asarray(num_points, dtype=np.int64)
    ids = ("",) * count if ids is None else tuple(ids)
    lengths = {len(boxes), len(velocity), len(scores), count, len(attributes), len(num_points), len(ids)}
    if len(lengths) > 1:
        raise ValueError(
            f"objects want arrays of one length, found boxes {len(boxes)}, velocity {len(velocity)}, "
            f"scores {len(scores)}, names {count}, attributes {len(attributes)}, "
            f"num_points {len(num_points)}, ids {len(ids)}"
        )
    return Objects(boxes, velocity, scores, tuple(names), tuple(attributes), num_points, ids)


def attribute_by_speed(name: str, speed: float) -> str:
    """nuScenes attribute of a class at a speed (m/s), for heads that predict none; NaN counts as not moving.

    Source: BEVDet, mmdet3d/datasets/nuscenes_dataset.py (CenterPoint and its descendants do the same).
    """
    moving, still = ATTRIBUTES.get(name, ("", ""))
    return moving if speed > MOVING_SPEED else still


def objects_from_detections(detections: Detections, classes: tuple[str, ...]) -> Objects:
    """The pipeline's output -> Objects, attributes by speed."""
    return make_objects(
        detections.boxes, detections.velocity, detections.scores, tuple(classes[i] for i in detections.labels)
    )


def objects_from_message(message: Any, ground_truth: bool = False) -> Objects:
    """bev_perception_msgs/Detection3DArray (of rclpy or of rosbags) -> Objects.

    Ground truth keeps the recorded attributes and point counts, detections get the attribute of their speed.
    """
    rows = message.detections
    boxes = np.zeros((len(rows), 7))
    velocity = np.zeros((len(rows), 2))
    for k, row in enumerate(rows):
        position, q, size = row.pose.pose.position, row.pose.pose.orientation, row.dimensions
        yaw = np.arctan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z))
        boxes[k] = position.x, position.y, position.z, size.x, size.y, size.z, yaw
        velocity[k] = row.twist.twist.linear.x, row.twist.twist.linear.y
    return make_objects(
        boxes,
        velocity,
        np.array([row.score for row in rows]),
        tuple(row.class_name for row in rows),
        tuple(row.attribute for row in rows) if ground_truth else None,
        np.array([row.num_sensor_points for row in rows], dtype=np.int64) if ground_truth else None,
        tuple(row.id for row in rows),
    )
