"""How a radar moves, by what it sees: the Doppler speeds of what stands are its own motion, as seen from it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

TRIALS = 150  # pairs of returns that are tried; with half of all standing, one in 1e18 runs finds no good pair
INLIER_MPS = 0.35  # a standing return is this near to the fit: resolution and noise of radars of cars
LEAST_RETURNS = 8
NEAREST_M = 1.0  # nearer returns are of the vehicle itself


@dataclass(frozen=True)
class DopplerFit:
    """velocity (2,): of the radar in its own x, y, m/s. standing: share of the returns that fit it; residual_mps: their
    median distance from it."""

    velocity: np.ndarray
    standing: float
    residual_mps: float


def fit_velocity(points: np.ndarray, seed: int = 0) -> DopplerFit | None:
    """Returns (P, 6) of RADAR_COLUMNS with speeds relative to the radar -> its motion; None where too few agree.

    Kellner et al., "Instantaneous ego-motion estimation using Doppler radar", ITSC 2013: a standing return in the
    direction d closes in by d . v. Two returns give v; of many pairs the v wins that most returns agree with, and least
    squares over these refine it. The same returns give the same answer.
    """
    distance = np.hypot(points[:, 0], points[:, 1])
    points, distance = points[distance > NEAREST_M], distance[distance > NEAREST_M]
    if len(points) < LEAST_RETURNS:
        return None
    rays = points[:, :2].astype(np.float64) / distance[:, None]
    closing = -np.sum(rays * points[:, 4:6], axis=1)
    first, second = np.random.default_rng(seed).integers(0, len(points), (2, TRIALS))
    a, b = rays[first], rays[second]
    determinant = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    apart = np.abs(determinant) > math.sin(math.radians(3.0))
    a, b, determinant = a[apart], b[apart], determinant[apart]
    p, q = closing[first[apart]], closing[second[apart]]
    guesses = np.stack([p * b[:, 1] - q * a[:, 1], q * a[:, 0] - p * b[:, 0]], axis=1) / determinant[:, None]
    if not len(guesses):
        return None
    agree = np.abs(guesses @ rays.T - closing) < INLIER_MPS
    chosen = agree[int(np.argmax(agree.sum(axis=1)))]
    velocity = np.zeros(2)
    for _ in range(2):
        if int(chosen.sum()) < LEAST_RETURNS:
            return None
        velocity = np.linalg.lstsq(rays[chosen], closing[chosen], rcond=None)[0]
        chosen = np.abs(rays @ velocity - closing) < INLIER_MPS
    if int(chosen.sum()) < LEAST_RETURNS:
        return None
    residual = float(np.median(np.abs(rays[chosen] @ velocity - closing[chosen])))
    return DopplerFit(velocity, float(chosen.mean()), residual)


def yaw_off_deg(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Velocities (N, 2) of a radar in its own axes, by its returns and by odometry and extrinsics -> (N,) degrees by
    which it is turned about z against its extrinsics.

    The vehicle's velocity seen from a radar that is turned to the left lies to the right of where it is expected.
    """
    cross = expected[:, 0] * found[:, 1] - expected[:, 1] * found[:, 0]
    return -np.degrees(np.arctan2(cross, np.sum(expected * found, axis=1)))


def middle_deg(angles: np.ndarray) -> float:
    """Median of (N,) angles in degrees, taken about their mean direction."""
    middle = float(np.degrees(np.angle(np.exp(1j * np.radians(angles)).mean())))
    return middle + float(np.median((angles - middle + 180.0) % 360.0 - 180.0))
