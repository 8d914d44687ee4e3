"""LiDAR sweeps -> one cloud in the keyframe's ego frame, without the vehicle's own roof."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bev_perception.geometry import invert, transform_points
from training.data.config import LidarConfig
from training.data.nuscenes import Keyframe, SensorFile

POINT_BYTES = 20  # x y z intensity ring, float32
FIRST_AZIMUTH = np.deg2rad(200.0)  # where the synthetic LiDAR's turn begins and ends, clockwise


def read_lidar(path: str | Path) -> np.ndarray:
    """(P, 5) float32: x, y, z (m, sensor frame), intensity 0..255, ring.

    Raises FileNotFoundError, and ValueError naming a file that does not hold whole, finite points.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such LiDAR file; unpack the set's archive that holds it")
    raw = Path(path).read_bytes()
    if len(raw) % POINT_BYTES:
        raise ValueError(
            f"{path}: {len(raw)} bytes, expected points of {POINT_BYTES} bytes; the file is cut off, copy it again"
        )
    points = np.frombuffer(raw, dtype="<f4").reshape(-1, 5)
    if not np.isfinite(points).all():
        raise ValueError(f"{path}: points that are not finite numbers; the file is damaged, copy it again")
    return points


def sweep_clouds(keyframe: Keyframe, config: LidarConfig) -> list[np.ndarray]:
    """(P, 5) float32 of each sweep, newest first: x, y, z in the keyframe's ego frame at its stamp, intensity in
    [0, 1], age in s (0 or more).

    lidar(t) -> ego(t) -> global -> ego(keyframe), as nuscenes-devkit's from_file_multisweep; `config.bounds` is not
    looked at here, because the frame may still be augmented.
    """
    return [_sweep(keyframe, file, config.own_radius) for file in recent(keyframe, config)]


def recent(keyframe: Keyframe, config: LidarConfig) -> list[SensorFile]:
    """The sweeps that `config` allows, newest first."""
    oldest_ns = keyframe.stamp_ns - round(config.max_age_s * 1e9)
    return [file for file in keyframe.lidar if file.stamp_ns >= oldest_ns][: config.sweeps]


def _sweep(keyframe: Keyframe, file: SensorFile, own_radius: float) -> np.ndarray:
    points = read_lidar(file.path)
    points = points[(np.abs(points[:, :2]) >= own_radius).any(axis=1)]
    cloud = np.empty((len(points), 5), dtype=np.float32)
    now_from_global = invert(keyframe.global_from_ego)
    xyz = points[:, :3].astype(np.float64)
    cloud[:, :3] = transform_points(now_from_global @ file.global_from_ego @ file.ego_from_sensor, xyz)
    if file.global_from_ego_begin is not None:
        begin = transform_points(now_from_global @ file.global_from_ego_begin @ file.ego_from_sensor, xyz)
        done = turned(points)[:, None]
        cloud[:, :3] = (1 - done) * begin + done * cloud[:, :3]
    cloud[:, 3] = np.clip(points[:, 3] / 255, 0, 1)
    cloud[:, 4] = max(0.0, (keyframe.stamp_ns - file.stamp_ns) * 1e-9)
    return cloud


def turned(points: np.ndarray) -> np.ndarray:
    """(P,) in [0, 1]: the share of the turn that was done when each point of a synthetic sweep was measured. In a
    twentieth of a second the vehicle moves on a line: mixing begin and end by this share corrects its motion."""
    azimuth = np.arctan2(points[:, 1].astype(np.float64), points[:, 0].astype(np.float64))
    return ((FIRST_AZIMUTH - azimuth) % (2 * np.pi)) / (2 * np.pi)


def within(points: np.ndarray, bounds: tuple[float, ...]) -> np.ndarray:
    """(P,) bool: x, y, z inside [minimum, maximum)."""
    low, high = np.array(bounds[:3]), np.array(bounds[3:])
    return np.all((points[:, :3] >= low) & (points[:, :3] < high), axis=1)
