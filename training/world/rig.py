"""The sensor rig of the synthetic car: mounts, rates and phases of a nuScenes-like sensor set."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
from numpy.typing import NDArray

IMAGE_WIDTH, IMAGE_HEIGHT = 1600, 900
NS = 1_000_000_000
MS = 1_000_000

SensorKind = Literal["camera", "radar", "lidar"]


@dataclass(frozen=True)
class SensorMount:
    """One sensor on the car.

    `ego_from_sensor` is a (4, 4) float64 transform into base_link (x forward, y left, z up, on the ground under the
    rear axle). Cameras look along their z with x right and y down; radars look along their x; the LiDAR has x to the
    car's right and y forward, as in nuScenes. `K` is (3, 3) at 1600x900 with pixel centres at integer coordinates,
    None for what is not a camera. Stamps are `k / rate_hz` seconds plus `phase_ns`.
    """

    name: str
    kind: SensorKind
    ego_from_sensor: NDArray[np.float64]
    rate_hz: float
    phase_ns: int
    K: NDArray[np.float64] | None = None
    width: int = IMAGE_WIDTH
    height: int = IMAGE_HEIGHT


def _pose(yaw_deg: float, xyz: tuple[float, float, float]) -> NDArray[np.float64]:
    yaw = np.deg2rad(yaw_deg)
    pose = np.eye(4)
    pose[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    pose[:3, 3] = xyz
    return pose


# Columns: the camera's right, down and forward axes in a frame that looks along x.
_LOOK_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def _camera(name: str, yaw_deg: float, xyz: tuple[float, float, float], phase_ms: int, focal: float) -> SensorMount:
    K = np.array([[focal, 0.0, 800.0], [0.0, focal, 480.0], [0.0, 0.0, 1.0]])
    return SensorMount(name, "camera", _pose(yaw_deg, xyz) @ _LOOK_FROM_OPTICAL, 12.0, phase_ms * MS, K)


def _radar(name: str, yaw_deg: float, xyz: tuple[float, float, float], phase_ms: int) -> SensorMount:
    return SensorMount(name, "radar", _pose(yaw_deg, xyz), 13.0, phase_ms * MS)


_MOUNTS = (
    _camera("CAM_FRONT_LEFT", 55.0, (1.55, 0.50, 1.50), -43, 1260.0),
    _camera("CAM_FRONT", 0.0, (1.70, 0.00, 1.50), -35, 1260.0),
    _camera("CAM_FRONT_RIGHT", -55.0, (1.55, -0.50, 1.50), -27, 1260.0),
    _camera("CAM_BACK_RIGHT", -110.0, (1.05, -0.48, 1.55), -20, 1260.0),
    _camera("CAM_BACK", 180.0, (0.05, 0.00, 1.57), -10, 800.0),
    _camera("CAM_BACK_LEFT", 110.0, (1.05, 0.48, 1.55), 0, 1260.0),
    _radar("RADAR_FRONT", 0.0, (3.40, 0.00, 0.50), 0),
    _radar("RADAR_FRONT_LEFT", 90.0, (2.40, 0.80, 0.75), 2),
    _radar("RADAR_FRONT_RIGHT", -90.0, (2.40, -0.80, 0.75), 4),
    _radar("RADAR_BACK_LEFT", 175.0, (-0.55, 0.62, 0.53), 6),
    _radar("RADAR_BACK_RIGHT", -175.0, (-0.55, -0.62, 0.53), 8),
    SensorMount("LIDAR_TOP", "lidar", _pose(-90.0, (0.95, 0.00, 1.84)), 20.0, 0),
)
RIG: dict[str, SensorMount] = {mount.name: mount for mount in _MOUNTS}
KEYFRAME_PERIOD_NS = NS // 2


def stamps(mount: SensorMount, start_ns: int, end_ns: int) -> list[int]:
    """All stamps of `mount` in [start_ns, end_ns), ascending, integer ns since the drive's start.

    CAM_BACK_LEFT fires at k/12 s and LIDAR_TOP ends a sweep at k/20 s, so every 0.5 s the two coincide: the keyframe.
    """
    if end_ns < start_ns:
        raise ValueError(f"the interval ends at {end_ns} ns before it starts at {start_ns} ns; swap the two")
    rate = round(mount.rate_hz)
    first = ceil((start_ns - mount.phase_ns) * rate / NS) - 1
    last = ceil((end_ns - mount.phase_ns) * rate / NS) + 1
    every = ((2 * k * NS + rate) // (2 * rate) + mount.phase_ns for k in range(first, last + 1))
    return [stamp for stamp in every if start_ns <= stamp < end_ns]


def scan_rng(seed: int, name: str, stamp_ns: int) -> np.random.Generator:
    """The generator of one scan: any scan can be made alone, in any process, with the same bytes."""
    return np.random.default_rng([seed, list(RIG).index(name), stamp_ns])
