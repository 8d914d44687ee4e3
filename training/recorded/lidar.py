"""LiDAR sweeps of a recording, which the node has no use for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_perception import conversions
from bev_perception.calibration import CalibrationError, StaticTree, load_extrinsics
from bev_perception.conversions import MessageError
from bev_perception.parameters import NodeConfig
from bev_perception.sensors.intake import Source
from bev_perception.sensors.sensor_calibration import TF_STATIC

LIDAR = "LIDAR_TOP"  # the one channel that training reads


@dataclass(frozen=True)
class LidarSweep:
    """points (P, 5) float32: x, y, z (m, sensor frame), intensity, ring as recorded; 0 where a driver has none."""

    sensor: str
    stamp_ns: int
    points: np.ndarray


class LidarInput:
    """sources: the topic, and /tf_static unless the parameters name a calibration file, which then has LIDAR_TOP.

    Raises CalibrationError where that file does not. ego_from_lidar (4, 4), None until it is known; gap: what it lacks.
    """

    def __init__(self, topic: str, config: NodeConfig, swept: Callable[[LidarSweep], None]) -> None:
        self._config, self._swept = config, swept
        self._tree, self._frame = StaticTree(), ""
        self._newest_ns = 0
        self.ego_from_lidar: np.ndarray | None = None
        self.gap = "nothing arrived on /tf_static"
        self.sources = [Source(topic, LIDAR, "sensor_msgs/msg/PointCloud2", self._cloud)]
        if config.extrinsics_file is None:
            self.sources.append(Source(f"/{TF_STATIC}", TF_STATIC, "tf2_msgs/msg/TFMessage", self._transforms))
        else:
            self.ego_from_lidar = load_extrinsics(config.extrinsics_file, config.base_frame, [LIDAR])[LIDAR]

    def _transforms(self, msg: Any) -> None:
        try:
            self._tree.add(msg.transforms)
        except CalibrationError:
            pass  # told by the intake, which takes the others, too
        self._look_up()

    def _look_up(self) -> None:
        try:
            self.ego_from_lidar = self._tree.lookup(self._config.base_frame, self._frame) if self._frame else None
        except CalibrationError as error:
            self.ego_from_lidar, self.gap = None, str(error)

    def _cloud(self, msg: Any) -> None:
        """Raises MessageError: what read_points raises, cloud_fields, stamp_not_set, stepped_back."""
        stamp_ns = conversions.stamp_ns(msg.header.stamp)
        if self._config.extrinsics_file is None and msg.header.frame_id != self._frame:
            self._frame = msg.header.frame_id
            self._look_up()
        points = lidar_points(conversions.read_points(msg))
        if 0 <= self._newest_ns - stamp_ns < 1_000_000_000:  # farther back: the time was set back
            raise MessageError("stepped_back", f"stamp {stamp_ns} after {self._newest_ns}; two publishers?")
        self._newest_ns = stamp_ns
        self._swept(LidarSweep(LIDAR, stamp_ns, points))


def lidar_points(cloud: np.ndarray) -> np.ndarray:
    """(P,) structured -> (P, 5) float32 as in LidarSweep, without points that are not finite. Raises MessageError."""
    names = cloud.dtype.names or ()
    absent = [name for name in "xyz" if name not in names]
    if absent:
        raise MessageError("cloud_fields", f"no fields {absent}; the cloud has {', '.join(names) or 'none'}")
    points = np.zeros((len(cloud), 5), dtype="<f4")
    for column, name in enumerate(("x", "y", "z", "intensity", "ring")):
        if name in names:
            points[:, column] = cloud[name]
    return points[np.isfinite(points).all(axis=1)]
