"""How well the sensors see each object: pixels against those it would have unoccluded, LiDAR points, radar returns.

Only for ground truth: which boxes are annotated, their visibility level and their point counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from bev_perception.geometry import box_corners, invert, transform_points
from training.world.camera import CameraImage
from training.world.generate import Scan
from training.world.lidar import LidarSweep
from training.world.rig import SensorMount
from training.world.shot import scaled_K
from training.world.world import World

ANNOTATION_RANGE_M = 80.0
# A radar return lies on the object's surface plus range and azimuth noise, and has no elevation.
RADAR_BOX_MARGIN_M = 0.5
# nuScenes' own default filter of radar returns (RadarPointCloud.default_filters).
RADAR_UNAMBIGUOUS = 3
# Share of its box's outline in the image that an object of the class covers when nothing is in front of it: the 85th
# percentile over the objects of eight keyframes of four drives. People and cycles do not fill their boxes.
OUTLINE_FILL = {
    "car": 0.78,
    "truck": 0.72,
    "bus": 0.85,
    "trailer": 0.75,
    "construction_vehicle": 0.54,
    "pedestrian": 0.43,
    "motorcycle": 0.43,
    "bicycle": 0.34,
    "traffic_cone": 0.38,
    "barrier": 0.86,
}
_NEAR_M = 0.2
_EDGES = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]


@dataclass
class Observation:
    """What was seen of one object around one keyframe (or frame)."""

    pixels: int = 0
    expected_pixels: float = 0.0
    lidar_points: int = 0
    radar_points: int = 0

    @property
    def seen(self) -> bool:
        """Any sensor had at least one return from it."""
        return self.pixels > 0 or self.lidar_points > 0 or self.radar_points > 0

    @property
    def visibility(self) -> float:
        """Estimated share in [0, 1] of the object's pixels that are visible over all cameras."""
        return 0.0 if self.expected_pixels <= 0 else min(1.0, self.pixels / self.expected_pixels)


@dataclass(frozen=True)
class Snapshot:
    """Actors around the ego at one time: boxes (M, 7) x y z l w h yaw, velocities (M, 3), in the world frame."""

    stamp_ns: int
    track_ids: list[int]
    names: list[str]
    boxes: np.ndarray
    velocities: np.ndarray

    def boxes_at(self, stamp_ns: int) -> np.ndarray:
        """(M, 7) moved on at constant velocity: good to centimetres within a tenth of a second."""
        boxes = self.boxes.copy()
        boxes[:, :3] += self.velocities * ((stamp_ns - self.stamp_ns) / 1e9)
        return boxes


def snapshot(world: World, stamp_ns: int) -> Snapshot:
    """The actors that may be annotated at stamp_ns or a moment before or after it."""
    states = world.actor_states(stamp_ns, ANNOTATION_RANGE_M + 5.0)
    boxes = np.array([[*s.center, *s.size_lwh, s.yaw] for s in states]).reshape(-1, 7)
    velocities = np.array([s.velocity for s in states]).reshape(-1, 3)
    return Snapshot(stamp_ns, [s.track_id for s in states], [s.name for s in states], boxes, velocities)


def observe(
    world: World, scan: Scan, result: CameraImage | LidarSweep | np.ndarray, actors: Snapshot, scale: float
) -> dict[int, Observation]:
    """Track id -> what this one scan saw of it, for `actors`, a snapshot at most a tenth of a second from the scan.

    `scale` is the one that cameras were rendered with.
    """
    mount = world.rig.mounts[scan.channel]
    world_from_sensor = world.ego_pose(scan.stamp_ns) @ mount.ego_from_sensor
    boxes = actors.boxes_at(scan.stamp_ns)
    if isinstance(result, CameraImage):
        pixels = _count(result.instance)
        height, width = result.instance.shape
        K = camera_matrix(mount, scale)
        corners = transform_points(invert(world_from_sensor), box_corners(boxes).reshape(-1, 3)).reshape(-1, 8, 3)
        return {
            track_id: Observation(pixels.get(track_id, 0), OUTLINE_FILL[name] * outline_area(eight, K, width, height))
            for track_id, name, eight in zip(actors.track_ids, actors.names, corners)
        }
    if isinstance(result, LidarSweep):
        points = _count(result.instance)
        return {track_id: Observation(lidar_points=points.get(track_id, 0)) for track_id in actors.track_ids}
    valid = (result["invalid_state"] == 0) & (result["ambig_state"] == RADAR_UNAMBIGUOUS) & (result["dyn_prop"] < 7)
    returns = np.stack([result["x"], result["y"], result["z"]], axis=1)[valid].astype(np.float64)
    returns = transform_points(world_from_sensor, returns)
    counts = count_in_footprints(returns, boxes).tolist()
    return {track_id: Observation(radar_points=count) for track_id, count in zip(actors.track_ids, counts)}


def camera_matrix(mount: SensorMount, scale: float) -> np.ndarray:
    """(3, 3) intrinsics of the camera's image at `scale`, pixel centres at integer coordinates."""
    assert mount.K is not None, mount.name
    return scaled_K(mount.K, scale)


def _count(instance: np.ndarray) -> dict[int, int]:
    ids, counts = np.unique(instance, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist()))


def merge(total: dict[int, Observation], more: dict[int, Observation]) -> None:
    """Adds `more` to `total`, in place."""
    for track_id, seen in more.items():
        into = total.setdefault(track_id, Observation())
        into.pixels += seen.pixels
        into.expected_pixels += seen.expected_pixels
        into.lidar_points += seen.lidar_points
        into.radar_points += seen.radar_points


def count_in_footprints(points: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(M,) how many of the (P, 3) points are in each (M, 7) box seen from above, grown by RADAR_BOX_MARGIN_M."""
    c, s = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    dx, dy = points[None, :, 0] - boxes[:, None, 0], points[None, :, 1] - boxes[:, None, 1]
    half = boxes[:, 3:5, None] / 2 + RADAR_BOX_MARGIN_M
    inside = (np.abs(c * dx + s * dy) <= half[:, 0]) & (np.abs(c * dy - s * dx) <= half[:, 1])
    return np.count_nonzero(inside, axis=1)


def outline_area(corners: np.ndarray, K: np.ndarray, width: int, height: int) -> float:
    """Area (pixels) inside the image of the outline of a box with `corners` (8, 3) in the camera's frame, metres.

    Corners are in box_corners' order. The part of the box behind the camera is cut away.
    """
    return inside_image(outline(corners, K), width, height)[0]


def outline(corners: np.ndarray, K: np.ndarray) -> np.ndarray:
    """(V, 2) float32 pixels: the convex outline of a box, as outline_area takes it; none where all is behind."""
    front = corners[:, 2] > _NEAR_M
    if not front.any():
        return np.zeros((0, 2), np.float32)
    points = [corners[front]]
    for a, b in _EDGES if not front.all() else ():
        if front[a] != front[b]:
            t = (_NEAR_M - corners[a, 2]) / (corners[b, 2] - corners[a, 2])
            points.append((corners[a] + t * (corners[b] - corners[a]))[None])
    pixels = np.concatenate(points) @ K.T
    return cv2.convexHull((pixels[:, :2] / pixels[:, 2:]).astype(np.float32)).reshape(-1, 2)


def inside_image(hull: np.ndarray, width: int, height: int) -> tuple[float, np.ndarray]:
    """(area in pixels, (V, 2) outline) of the part of a convex outline that is inside the image."""
    nothing = 0.0, np.zeros((0, 2), np.float32)
    if len(hull) < 3:
        return nothing
    low, high = hull.min(axis=0), hull.max(axis=0)
    right, bottom = width - 0.5, height - 0.5  # pixel centres are at integer coordinates
    if high[0] <= -0.5 or high[1] <= -0.5 or low[0] >= right or low[1] >= bottom:
        return nothing
    image = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]], dtype=np.float32)
    area, part = cv2.intersectConvexConvex(hull, image)
    return float(area), np.zeros((0, 2), np.float32) if part is None else part.reshape(-1, 2)
