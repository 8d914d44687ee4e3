"""How well the sensors see each object: pixels against those it would have unoccluded, LiDAR points, radar returns.

Only for ground truth: which boxes are annotated, their visibility level and their point counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from bev_perception.geometry import box_corners, invert, transform_points
from training.data.synthetic.camera import CameraImage
from training.data.synthetic.generate import Scan
from training.data.synthetic.lidar import LidarSweep
from training.data.synthetic.rig import RIG
from training.data.synthetic.world import ActorState, World

ANNOTATION_RANGE_M = 80.0
# A radar return lies on the object's surface plus range and azimuth noise, and has no elevation.
RADAR_BOX_MARGIN_M = 0.5
# nuScenes' own default filter of radar returns (RadarPointCloud.default_filters).
RADAR_UNAMBIGUOUS = 3
# Share of its box's outline that an unoccluded object of the class covers in the image.
OUTLINE_FILL = 0.7
_NEAR_M = 0.2
_EDGES = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]


@dataclass
class Observation:
    """What was seen of one object around one keyframe (or frame)."""

    pixels: int = 0
    outline_pixels: float = 0.0
    lidar_points: int = 0
    radar_points: int = 0

    @property
    def seen(self) -> bool:
        """Any sensor had at least one return from it."""
        return self.pixels > 0 or self.lidar_points > 0 or self.radar_points > 0

    @property
    def visibility(self) -> float:
        """Estimated share in [0, 1] of the object's pixels that are visible over all cameras."""
        expected = OUTLINE_FILL * self.outline_pixels
        return 0.0 if expected <= 0 else min(1.0, self.pixels / expected)


def observe(world: World, scan: Scan, result: CameraImage | LidarSweep | np.ndarray) -> dict[int, Observation]:
    """Track id -> what this one scan saw of it, for the actors within ANNOTATION_RANGE_M at the scan's stamp."""
    states = world.actor_states(scan.stamp_ns, ANNOTATION_RANGE_M + 10.0)
    if isinstance(result, CameraImage):
        ids, counts = np.unique(result.instance, return_counts=True)
        pixels = dict(zip(ids.tolist(), counts.tolist()))
        cam_from_world = invert(world.ego_pose(scan.stamp_ns) @ RIG[scan.channel].ego_from_sensor)
        height, width = result.instance.shape
        K = scaled_intrinsic(scan.channel, width, height)
        return {
            s.track_id: Observation(
                pixels=pixels.get(s.track_id, 0),
                outline_pixels=outline_area(box_of(s), cam_from_world, K, width, height),
            )
            for s in states
        }
    if isinstance(result, LidarSweep):
        ids, counts = np.unique(result.instance, return_counts=True)
        points = dict(zip(ids.tolist(), counts.tolist()))
        return {s.track_id: Observation(lidar_points=points.get(s.track_id, 0)) for s in states}
    world_from_sensor = world.ego_pose(scan.stamp_ns) @ RIG[scan.channel].ego_from_sensor
    valid = (result["invalid_state"] == 0) & (result["ambig_state"] == RADAR_UNAMBIGUOUS) & (result["dyn_prop"] < 7)
    returns = np.stack([result["x"], result["y"], result["z"]], axis=1)[valid].astype(np.float64)
    returns = transform_points(world_from_sensor, returns)
    return {s.track_id: Observation(radar_points=count_in_footprint(returns, box_of(s))) for s in states}


def merge(total: dict[int, Observation], more: dict[int, Observation]) -> None:
    """Adds `more` to `total`, in place."""
    for track_id, seen in more.items():
        into = total.setdefault(track_id, Observation())
        into.pixels += seen.pixels
        into.outline_pixels += seen.outline_pixels
        into.lidar_points += seen.lidar_points
        into.radar_points += seen.radar_points


def box_of(state: ActorState) -> np.ndarray:
    """(7,) x y z l w h yaw in the world frame."""
    return np.concatenate([state.center, state.size_lwh, [state.yaw]])


def scaled_intrinsic(channel: str, width: int, height: int) -> np.ndarray:
    """(3, 3) intrinsic of the camera for an image of width x height instead of the mount's 1600 x 900."""
    mount = RIG[channel]
    return np.diag([width / mount.width, height / mount.height, 1.0]) @ mount.K


def count_in_footprint(points: np.ndarray, box: np.ndarray) -> int:
    """(P, 3) points inside the (7,) box seen from above, grown by RADAR_BOX_MARGIN_M; height is ignored."""
    c, s = np.cos(box[6]), np.sin(box[6])
    dx, dy = points[:, 0] - box[0], points[:, 1] - box[1]
    along, across = c * dx + s * dy, -s * dx + c * dy
    half = box[3:5] / 2 + RADAR_BOX_MARGIN_M
    return int(np.count_nonzero((np.abs(along) <= half[0]) & (np.abs(across) <= half[1])))


def outline_area(box: np.ndarray, cam_from_world: np.ndarray, K: np.ndarray, width: int, height: int) -> float:
    """Area (pixels) of the (7,) box's outline inside the image; parts behind the camera are cut away."""
    corners = transform_points(cam_from_world, box_corners(box)[0])
    front = corners[:, 2] > _NEAR_M
    if not front.any():
        return 0.0
    points = [corners[front]]
    for a, b in _EDGES:
        if front[a] != front[b]:
            t = (_NEAR_M - corners[a, 2]) / (corners[b, 2] - corners[a, 2])
            points.append((corners[a] + t * (corners[b] - corners[a]))[None])
    pixels = np.concatenate(points) @ K.T
    pixels = pixels[:, :2] / pixels[:, 2:]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    if high[0] <= 0 or high[1] <= 0 or low[0] >= width or low[1] >= height:
        return 0.0
    hull = cv2.convexHull(pixels.astype(np.float32))
    if len(hull) < 3:
        return 0.0
    image = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float32)
    area, _ = cv2.intersectConvexConvex(hull, image)
    return float(area)
