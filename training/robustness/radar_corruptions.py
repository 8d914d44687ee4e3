"""What goes wrong with radar scans. Every function takes points (P, 6) float32 of RADAR_COLUMNS in the radar's frame
(m, dBsm, m/s) and returns such ones.

The benchmarks that are published corrupt cameras and LiDAR; these are the radar's counterparts. Their sizes are chosen
from weak to strong and fitted to no recording.
"""

from __future__ import annotations

import numpy as np

from bev_perception.structures import RADAR_COLUMNS

X, Y, Z, RCS, VX, VY = range(len(RADAR_COLUMNS))
FIELD_DEG, REACH_M = 60.0, 100.0  # half the field of view and the range in which returns are added


def noisy_azimuth(points: np.ndarray, degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Every return turned about the radar by a normal error; its radial speed stays on its ray."""
    return _turned(points, rng.normal(0.0, np.radians(degrees), len(points)))


def clutter(points: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """`share` times as many returns more, evenly over azimuth and range, weak and standing."""
    count = round(share * max(len(points), 1))
    return np.concatenate([points, _polar(rng, count, -5.0, 5.0)])


def ghosts(points: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Of `share` of the returns a second one by way of a mirror: on the same ray 1.2 to 2 times as far, 6 dB weaker."""
    seen = points[rng.random(len(points)) < share].copy()
    seen[:, :3] *= rng.uniform(1.2, 2.0, (len(seen), 1)).astype(np.float32)
    seen[:, RCS] -= 6.0
    return np.concatenate([points, seen])


def interference(points: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """Another radar raises the floor of noise: what is weaker than the scan's weakest tenth plus `decibels` at its
    range is lost, and a fan of 20 false returns stands on one azimuth."""
    if len(points):
        power = points[:, RCS] - 40.0 * np.log10(np.maximum(np.hypot(points[:, X], points[:, Y]), 1.0))
        points = points[power >= np.percentile(power, 10.0) + decibels]
    false = _polar(rng, 20, -10.0, 10.0)
    angle = rng.uniform(-1.0, 1.0) * np.radians(FIELD_DEG)
    return np.concatenate([points, _turned(false, angle - np.arctan2(false[:, Y], false[:, X]))])


def blocked(points: np.ndarray, decibels: float, rng: np.random.Generator) -> np.ndarray:
    """A cover of snow or mud: every return is weaker by `decibels` there and back, and what then lies below the scan's
    weakest is not seen."""
    if not len(points):
        return points
    power = points[:, RCS] - 40.0 * np.log10(np.maximum(np.hypot(points[:, X], points[:, Y]), 1.0))
    kept = points[power - decibels >= power.min()].copy()
    kept[:, RCS] -= decibels
    return kept


def _polar(rng: np.random.Generator, count: int, weakest: float, strongest: float) -> np.ndarray:
    azimuth = rng.uniform(-1.0, 1.0, count) * np.radians(FIELD_DEG)
    metres = rng.uniform(1.0, REACH_M, count)
    added = np.zeros((count, len(RADAR_COLUMNS)), dtype=np.float32)
    added[:, X], added[:, Y] = metres * np.cos(azimuth), metres * np.sin(azimuth)
    added[:, RCS] = rng.uniform(weakest, strongest, count)
    return added


def _turned(points: np.ndarray, angles: np.ndarray) -> np.ndarray:
    turned, cos, sin = points.copy(), np.cos(angles), np.sin(angles)
    for a, b in ((X, Y), (VX, VY)):
        turned[:, a], turned[:, b] = points[:, a] * cos - points[:, b] * sin, points[:, a] * sin + points[:, b] * cos
    return turned
