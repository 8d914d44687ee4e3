"""Which places the sensors that work can see."""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np

from bev_perception.geometry import invert, project, transform_points
from bev_perception.structures import CameraView, RadarSweep, SensorFrame

# Half a radar's field of view and its range, of the near scan of nuScenes' ARS 408 (data sheet).
RADAR_DEG, RADAR_M = 60.0, 70.0


def seen_by(frame: SensorFrame, sensors: Collection[str]) -> Callable[[np.ndarray], np.ndarray]:
    """Centres (N, 3) in the ego frame -> (N,) bool: in the image of one of `sensors`, or in the field of a radar of
    them. What stands before what is not looked at."""
    views = [view for view in frame.cameras if view is not None and view.frame.sensor in sensors]
    sweeps = [found[0] for found in frame.radars if found and found[0].scan.sensor in sensors]

    def seen(centers: np.ndarray) -> np.ndarray:
        found = np.zeros(len(centers), dtype=bool)
        for view in views:
            found |= _in_image(view, centers)
        for sweep in sweeps:
            found |= _in_field(sweep, centers)
        return found

    return seen


def _in_image(view: CameraView, centers: np.ndarray) -> np.ndarray:
    calibration = view.calibration
    img_from_ego = np.eye(4)
    img_from_ego[:3] = calibration.K @ calibration.cam_from_ego[:3]
    pixels, depth = project(img_from_ego, centers)
    inside = (pixels >= 0) & (pixels <= (calibration.width - 1, calibration.height - 1))
    return inside.all(axis=1) & (depth > 0.5)


def _in_field(sweep: RadarSweep, centers: np.ndarray) -> np.ndarray:
    points = transform_points(invert(sweep.ego_from_radar), centers)
    metres = np.hypot(points[:, 0], points[:, 1])
    return (np.abs(np.arctan2(points[:, 1], points[:, 0])) <= np.radians(RADAR_DEG)) & (metres <= RADAR_M)
