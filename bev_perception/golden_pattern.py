"""Two frames of a drawn scene, for a golden frame where no recording is at hand: every sensor sees something.

A trained network finds little in it; a frame of a recording proves more.
"""

from __future__ import annotations

import numpy as np

from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.model_spec import ModelSpec
from bev_perception.structures import (
    CameraCalibration,
    CameraFrame,
    CameraView,
    EgoPose,
    RadarScan,
    RadarSweep,
    SensorFrame,
)

SPEED_MPS = 5.0
RETURNS = 40  # of a scan
# Columns: an optical frame's right, down and forward axes in a frame that looks along x.
LOOK_FROM_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def pattern_frames(spec: ModelSpec) -> tuple[SensorFrame, SensorFrame]:
    """(earlier, later), spec.temporal.interval_s apart: cameras in a ring, radars all around, a straight drive."""
    interval_ns = round(spec.temporal.interval_s * 1e9)
    first_ns = 10_000_000_000
    return _frame(spec, first_ns, 0), _frame(spec, first_ns + interval_ns, 1)


def _ego(stamp_ns: int) -> EgoPose:
    pose = make_transform(rotation_from_yaw(0.3), np.array([SPEED_MPS * stamp_ns * 1e-9, 0.0, 0.0]))
    return EgoPose(stamp_ns, pose, np.array([SPEED_MPS, 0.0, 0.0]))


def _mount(number: int, count: int, xyz: tuple[float, float, float]) -> np.ndarray:
    """A sensor that looks along x of its own, the first one a little beside the vehicle's."""
    return make_transform(rotation_from_yaw(2 * np.pi * number / count + 0.1), np.array(xyz))


def _frame(spec: ModelSpec, stamp_ns: int, seed: int) -> SensorFrame:
    rng = np.random.default_rng(seed)
    cameras = tuple(_view(spec, i, stamp_ns - 5_000_000 * i, seed) for i in range(len(spec.cameras)))
    radars = tuple(_sweeps(spec, i, stamp_ns, rng) for i in range(len(spec.radars)))
    return SensorFrame(stamp_ns, _ego(stamp_ns), cameras, radars)


def _view(spec: ModelSpec, number: int, stamp_ns: int, seed: int) -> CameraView:
    """Stripes and a bright square, of other colours in every camera."""
    width, height = spec.image.width, spec.image.height + max(2, spec.image.height // 4)
    ramp = np.add.outer(np.arange(height), (1 + number) * np.arange(width))
    image = ((ramp[..., None] * np.array([1, 2, 3]) + 40 * seed) % 256).astype(np.uint8)
    image[height // 3 : height // 2, width // 4 : width // 2] = (30, 120, 240)
    K = np.array([[0.8 * width, 0, width / 2], [0, 0.8 * width, height / 2], [0, 0, 1]])
    pose = _mount(number, len(spec.cameras), (0.0, 0.0, 1.5))
    pose[:3, :3] = pose[:3, :3] @ LOOK_FROM_OPTICAL
    frame = CameraFrame(spec.cameras[number], stamp_ns, "bgr8", image)
    return CameraView(frame, CameraCalibration(width, height, K, pose), _ego(stamp_ns))


def _sweeps(spec: ModelSpec, number: int, frame_ns: int, rng: np.random.Generator) -> tuple[RadarSweep, ...]:
    """As many scans as the model takes, and one more, within its window, newest first."""
    spacing_ns = round(spec.radar.max_age_s / (spec.radar.sweeps + 2) * 1e9)
    reach = min(spec.grid.x_max, spec.grid.y_max, -spec.grid.x_min, -spec.grid.y_min)
    sweeps = []
    for age in range(spec.radar.sweeps + 1):
        stamp_ns = frame_ns - age * spacing_ns
        azimuth, distance = rng.uniform(-1.2, 1.2, RETURNS), max(reach, 5.0) * rng.uniform(0.05, 0.9, RETURNS)
        ray = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1)
        speed, rcs = rng.normal(0, 3, (RETURNS, 1)), rng.normal(5, 8, (RETURNS, 1))
        points = np.hstack([ray * distance[:, None], np.zeros((RETURNS, 1)), rcs, ray * speed]).astype(np.float32)
        scan = RadarScan(spec.radars[number], stamp_ns, points, compensated=age % 2 == 0)
        sweeps.append(RadarSweep(scan, _mount(number, len(spec.radars), (0.5, 0.0, 0.5)), _ego(stamp_ns)))
    return tuple(sweeps)
