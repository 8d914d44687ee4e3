"""The newest scan of every radar in one cloud, and what they say of each radar."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bev_perception.preprocess.radar import finite_returns, now_from_radar
from bev_perception.structures import SensorFrame

MOVING_MPS = 1.0
FAN_DEG = 5.0  # width of a sector
SECTORS = round(360 / FAN_DEG)
RETURN_STATISTICS = (
    "number of returns", "cross section, dBsm", "spread of cross sections, dB", "distance", "spread of distances",
    "share that moves", "largest share on one bearing", "spread of bearings, rad",
)  # fmt: skip
LOGARITHMS = frozenset(("number of returns", "distance"))  # differences are factors


@dataclass(frozen=True)
class Returns:
    """P returns. radar (P,): index of the radar. points (P, 6) float64: RADAR_COLUMNS in its frame. moving (P,) bool:
    faster than MOVING_MPS over ground. moving_place (Q, 2): x, y in base_link at the frame's stamp of those that are.
    heard (R,) bool: radars with a scan."""

    radar: np.ndarray
    points: np.ndarray
    moving: np.ndarray
    moving_place: np.ndarray
    heard: np.ndarray


def newest_returns(frame: SensorFrame) -> Returns:
    """Of the newest scan of every radar; what is not finite is left out."""
    heard = np.array([bool(sweeps) for sweeps in frame.radars], dtype=bool)
    sweeps = [radar[0] for radar in frame.radars if radar]
    if not sweeps:
        return Returns(np.empty(0, np.int64), np.empty((0, 6)), np.empty(0, bool), np.empty((0, 2)), heard)
    points, of_sweep, velocity = finite_returns(sweeps)
    moving = velocity[:, 0] ** 2 + velocity[:, 1] ** 2 > MOVING_MPS**2
    near = now_from_radar(sweeps, frame)[of_sweep[moving], :2]
    place = (near[:, :, :3] @ points[moving, :3, None])[..., 0] + near[:, :, 3]
    return Returns(np.flatnonzero(heard)[of_sweep], points, moving, place, heard)


def return_statistics(returns: Returns) -> np.ndarray:
    """(R, 8) float64 of RETURN_STATISTICS; NaN for radars without a scan, and for what an empty scan does not tell."""
    count = len(returns.heard)
    radar, points = returns.radar, returns.points
    number = np.bincount(radar, minlength=count).astype(np.float64)
    metres = np.log(np.maximum(np.hypot(points[:, 0], points[:, 1]), 0.1))
    bearing = np.arctan2(points[:, 1], points[:, 0])
    columns = [points[:, 3], metres, bearing]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = [np.bincount(radar, values, count) / number for values in columns]
        square = [np.bincount(radar, values**2, count) / number for values in columns]
        spread = [np.sqrt(np.maximum(s - m**2, 0.0)) for s, m in zip(square, mean)]
        moving = np.bincount(radar, returns.moving, count) / number
        sector = ((bearing + np.pi) * (SECTORS / (2 * np.pi))).astype(np.int64) % SECTORS
        fans = np.bincount(radar * SECTORS + sector, minlength=count * SECTORS).reshape(count, SECTORS)
        fan = fans.max(axis=1) / number
        found = np.stack([np.log1p(number), mean[0], spread[0], mean[1], spread[1], moving, fan, spread[2]], axis=1)
    found[~returns.heard] = np.nan
    return found
