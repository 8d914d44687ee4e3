"""Sensors of the synthetic car: mounts, rates and phases, those of nuScenes' car above all."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

IMAGE_WIDTH, IMAGE_HEIGHT = 1600, 900
NS = 1_000_000_000
MS = 1_000_000

KINDS = ("camera", "radar", "lidar")


@dataclass(frozen=True)
class SensorMount:
    """One sensor on the car.

    `ego_from_sensor` is a (4, 4) float64 transform into base_link (x forward, y left, z up, on the ground under the
    rear axle). Cameras look along their z with x right and y down; radars look along their x; the LiDAR has x to the
    car's right and y forward, as in nuScenes. `K` is (3, 3) at 1600x900 with pixel centres at integer coordinates,
    None for what is not a camera. Stamps are `k / rate_hz` seconds plus `phase_ns`.
    """

    name: str
    kind: str
    ego_from_sensor: NDArray[np.float64]
    rate_hz: float
    phase_ns: int
    K: NDArray[np.float64] | None = None
    width: int = IMAGE_WIDTH
    height: int = IMAGE_HEIGHT


@dataclass(frozen=True)
class Sensor:
    """Where a sensor sits and what it is, in numbers that a file holds: metres and degrees in base_link, yaw to the
    left, pitch upwards, roll to the right. focal: of a camera, pixels at 1600 x 900; its centre lies at (800,
    `center_v`)."""

    name: str
    kind: str
    x: float
    y: float
    z: float
    yaw: float
    rate_hz: float
    phase_ms: int = 0
    pitch: float = 0.0
    roll: float = 0.0
    focal: float = 0.0
    center_v: float = 480.0

    def __post_init__(self) -> None:
        """Raises ValueError for what is no sensor."""
        if self.kind not in KINDS or (self.focal > 0) != (self.kind == "camera"):
            raise ValueError(
                f"{self.name}: a {self.kind} with a focal length of {self.focal:g}; kinds are {KINDS}, "
                "and cameras alone have a positive focal length"
            )
        if not self.rate_hz >= 1 or self.rate_hz != round(self.rate_hz):
            raise ValueError(f"{self.name}: {self.rate_hz:g} Hz; choose a whole number from 1 on")

    @property
    def mount(self) -> SensorMount:
        yaw, pitch, roll = np.deg2rad((self.yaw, -self.pitch, self.roll))
        pose = np.eye(4)
        pose[:3, :3] = _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll)
        pose[:3, 3] = self.x, self.y, self.z
        K = None
        if self.kind == "camera":
            pose = pose @ _LOOK_FROM_OPTICAL
            K = np.array([[self.focal, 0.0, 800.0], [0.0, self.focal, self.center_v], [0.0, 0.0, 1.0]])
        return SensorMount(self.name, self.kind, pose, self.rate_hz, self.phase_ms * MS, K)


def _turn(axis: int, angle: float) -> NDArray[np.float64]:
    """(3, 3) rotation about x, y or z."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    turned = np.eye(3)
    turned[[a, b], [a, b]] = np.cos(angle)
    turned[a, b], turned[b, a] = -np.sin(angle), np.sin(angle)
    return turned


# Columns: the camera's right, down and forward axes in a frame that looks along x.
_LOOK_FROM_OPTICAL = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


@dataclass(frozen=True)
class Rig:
    """The sensors of a car, in the order in which scans of one time are taken. Raises ValueError for one name twice."""

    name: str
    sensors: tuple[Sensor, ...]

    def __post_init__(self) -> None:
        names = [sensor.name for sensor in self.sensors]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"rig {self.name}: {repeated} are there twice")

    @cached_property
    def mounts(self) -> dict[str, SensorMount]:
        return {sensor.name: sensor.mount for sensor in self.sensors}


def camera(name: str, yaw: float, xyz: tuple[float, float, float], phase_ms: int, focal: float = 1260.0) -> Sensor:
    return Sensor(name, "camera", *xyz, yaw, 12.0, phase_ms, focal=focal)


def radar(name: str, yaw: float, xyz: tuple[float, float, float], phase_ms: int) -> Sensor:
    return Sensor(name, "radar", *xyz, yaw, 13.0, phase_ms)


NUSCENES = Rig(
    "nuscenes",
    (
        camera("CAM_FRONT_LEFT", 55.0, (1.55, 0.50, 1.50), -43),
        camera("CAM_FRONT", 0.0, (1.70, 0.00, 1.50), -35),
        camera("CAM_FRONT_RIGHT", -55.0, (1.55, -0.50, 1.50), -27),
        camera("CAM_BACK_RIGHT", -110.0, (1.05, -0.48, 1.55), -20),
        camera("CAM_BACK", 180.0, (0.05, 0.00, 1.57), -10, 800.0),
        camera("CAM_BACK_LEFT", 110.0, (1.05, 0.48, 1.55), 0),
        radar("RADAR_FRONT", 0.0, (3.40, 0.00, 0.50), 0),
        radar("RADAR_FRONT_LEFT", 90.0, (2.40, 0.80, 0.75), 2),
        radar("RADAR_FRONT_RIGHT", -90.0, (2.40, -0.80, 0.75), 4),
        radar("RADAR_BACK_LEFT", 175.0, (-0.55, 0.62, 0.53), 6),
        radar("RADAR_BACK_RIGHT", -175.0, (-0.55, -0.62, 0.53), 8),
        Sensor("LIDAR_TOP", "lidar", 0.95, 0.00, 1.84, -90.0, 20.0),
    ),
)
RIG: dict[str, SensorMount] = NUSCENES.mounts


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
    return np.random.default_rng([seed, number_of(name), stamp_ns])


def number_of(name: str) -> int:
    """What tells the random streams of one sensor from those of others, in every rig that has it."""
    return list(RIG).index(name) if name in RIG else crc32(name.encode())
