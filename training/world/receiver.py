"""What a radar's receiver makes of echoes: which it detects, which it tells apart, what it adds, how well it measures.

Powers are in dB over that of 0 dBsm at 1 m on boresight: a cross-section's power falls with the fourth power of the
distance (the radar equation). Angles in radians, distances in metres, speeds in m/s, positive: away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Receiver:
    """What tells one receiver from another.

    pattern: two-way gain (dB) over the azimuth (degrees), straight between the points.
    floor_dbsm: the least cross-section that is told at all.
    noise_dbsm: the least that stands out of the noise at 100 m on boresight.
    fluctuation: half the degrees of freedom of a centre's strength from scan to scan (1: Swerling I, 2: III).
    cells: what is not told apart: in distance (m), in azimuth (deg, at 0 and at 60 deg), in speed (m/s).
    dynamic_db: how much weaker an echo of the same distance and speed may be, at any angle, and still be told.
    side_lobes: mean number for each detection; their strength below it, mean and deviation (dB); their least offset and
    what the mean one is more (deg).
    neighbours: the same, with the deviation of their azimuth (deg), and least and further offset of the distance (m).
    low: below which cross-section (dBsm) a detection is marked as weak, and the deviation of that.
    sigma: errors of distance (m), azimuth (deg, at 0 and at 60 deg), speed (m/s) and strength (dB).
    glint, glint_deg: how often, and by which deviation, the azimuth is out because centres interfere.
    lost_doppler: how often the speed of a still and of a moving echo is not told from its aliases.
    aliased, alias_ms: how often it is wrong then, and by which deviation (m/s).
    odometer: the vehicle's speed as the compensation knows it, over the true one.
    false_alarms, alarm_ms: mean number of noise that passes in a scan, and the deviation of its speed.
    mirrors, mirror_db: how often a wall shows a moving centre's image, and how much weaker.
    rain_db_per_m, wet_db: two-way, at the heaviest rain: on the way, and of a wet cover.
    interference, interference_db: the share of scans in which noise is higher, and by how much.
    grid: steps of place (m), speed (m/s) and strength (dB), in which they are listed.
    """

    pattern: tuple[tuple[float, float], ...]
    floor_dbsm: float
    noise_dbsm: float
    fluctuation: float
    cells: tuple[float, float, float, float]
    dynamic_db: float
    side_lobes: tuple[float, float, float, float, float]
    neighbours: tuple[float, float, float, float, float, float]
    low: tuple[float, float]
    sigma: tuple[float, float, float, float, float]
    glint: float
    glint_deg: float
    lost_doppler: tuple[float, float]
    aliased: float
    alias_ms: float
    odometer: float
    false_alarms: float
    alarm_ms: float
    mirrors: float
    mirror_db: float
    rain_db_per_m: float
    wet_db: float
    interference: float
    interference_db: float
    grid: tuple[float, float, float]

    def __post_init__(self) -> None:
        degrees = [point[0] for point in self.pattern]
        if not degrees or degrees != sorted(degrees):
            raise ValueError(f"pattern must have azimuths that ascend, found {degrees}")


@dataclass(frozen=True)
class Detections:
    """N: distance (m), azimuth (rad), speed over ground along the ray (m/s), cross-section as measured (dBsm), state (a
    key of nuScenes' invalid_state)."""

    distance: Floats
    azimuth: Floats
    speed: Floats
    rcs: Floats
    state: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.distance)

    def at(self, index: NDArray[np.integer] | Flags) -> Detections:
        return Detections(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


# nuScenes' invalid_state (nuscenes-devkit, RadarPointCloud): those that are made here.
VALID, LOW_RCS, OUTSIDE, CHILD, ARTEFACT_50, NO_MAXIMUM, FAR_IN_NEAR, MULTI_TARGET = 0, 4, 7, 9, 10, 11, 15, 16

LEAST_M = 0.2  # data sheet of the ARS 408-21: the least distance


def gain(receiver: Receiver, azimuth: Floats) -> Floats:
    """Two-way antenna gain in dB, 0 on boresight."""
    degrees, db = zip(*receiver.pattern)
    return np.interp(np.abs(np.rad2deg(azimuth)), degrees, db)


def power(receiver: Receiver, rcs: Floats, distance: Floats, azimuth: Floats) -> Floats:
    """What comes back of cross-sections in dBsm."""
    return rcs - 40 * np.log10(np.maximum(distance, 0.5)) + gain(receiver, azimuth)


def least_rcs(receiver: Receiver, distance: Floats, azimuth: Floats, noise_db: float = 0.0) -> Floats:
    """The cross-section (dBsm) from which on an echo is detected; noise_db is what the noise has risen by."""
    noise = receiver.noise_dbsm + noise_db + 40 * np.log10(np.maximum(distance, 0.5) / 100) - gain(receiver, azimuth)
    return np.maximum(receiver.floor_dbsm, noise)


def fluctuate(receiver: Receiver, rcs: Floats, rng: np.random.Generator) -> Floats:
    """Strengths of one scan: the mean times a chi-square variable of mean 1 (Swerling, IRE Trans. IT-6, 1960)."""
    k = receiver.fluctuation
    return rcs + 10 * np.log10(rng.gamma(k, 1 / k, len(rcs)) + 1e-9)


def cell_deg(receiver: Receiver, azimuth: Floats) -> Floats:
    """Width of a cell in azimuth, which grows with the angle as an array's beam does."""
    return _between(receiver.cells[1], receiver.cells[2], azimuth)


def resolved(receiver: Receiver, found: Detections, relative: Floats) -> Flags:
    """Which echoes remain when each takes the weaker ones of its cell, and those in its sidelobes.

    relative: speed (N,) against the sensor, which is what the receiver tells apart.
    """
    strength = power(receiver, found.rcs, found.distance, found.azimuth)
    order = np.argsort(-strength, kind="stable")
    d, a, v, p = (x[order] for x in (found.distance, found.azimuth, relative, strength))
    same = (np.abs(d[:, None] - d) < receiver.cells[0]) & (np.abs(v[:, None] - v) < receiver.cells[3])
    apart = np.rad2deg(np.abs(a[:, None] - a))
    width = np.broadcast_to(cell_deg(receiver, a)[:, None], apart.shape)
    takes = same & ((apart < width) | (p[:, None] - p > receiver.dynamic_db))
    kept = np.ones(len(order), bool)
    for k in range(len(order)):
        if kept[k]:
            kept[k + 1 :] &= ~takes[k, k + 1 :]
    remaining = np.zeros(len(order), bool)
    remaining[order[kept]] = True
    return remaining


def additions(receiver: Receiver, found: Detections, rng: np.random.Generator) -> Detections:
    """What the signal processing lists beside its detections: their sidelobes, and neighbours that are no maximum."""
    lobes, below, spread, least_deg, more_deg = receiver.side_lobes
    of = np.repeat(np.arange(len(found)), rng.poisson(lobes, len(found)))
    n = len(of)
    aside = np.deg2rad(least_deg + rng.exponential(more_deg, n)) * rng.choice((-1.0, 1.0), n)
    rcs = found.rcs[of] - below + rng.normal(0, spread, n)
    state = np.where(is_low(receiver, rcs, rng), LOW_RCS, CHILD)
    sides = Detections(found.distance[of], found.azimuth[of] + aside, found.speed[of], rcs, state)

    many, below, spread, beside_deg, least_m, more_m = receiver.neighbours
    of = np.repeat(np.arange(len(found)), rng.poisson(many, len(found)))
    n = len(of)
    distance = found.distance[of] + rng.choice((-1.0, 1.0), n) * (least_m + rng.exponential(more_m, n))
    azimuth = found.azimuth[of] + np.deg2rad(rng.normal(0, beside_deg, n))
    rcs = found.rcs[of] - below + rng.normal(0, spread, n)
    beside = Detections(distance, azimuth, found.speed[of], rcs, np.full(n, NO_MAXIMUM))
    return join([sides, beside])


def false_alarms(
    receiver: Receiver, reach_m: float, wide: float, noise_db: float, rng: np.random.Generator
) -> Detections:
    """Noise that passes the threshold, by little, anywhere up to this distance and this far aside, at any speed."""
    n = int(rng.poisson(receiver.false_alarms))
    distance, azimuth = rng.uniform(1.0, reach_m, n), rng.uniform(-wide, wide, n)
    rcs = least_rcs(receiver, distance, azimuth, noise_db) + rng.exponential(1.0, n)
    return Detections(distance, azimuth, rng.normal(0, receiver.alarm_ms, n), rcs, np.full(n, VALID))


def is_low(receiver: Receiver, rcs: Floats, rng: np.random.Generator) -> Flags:
    """Which are marked as valid but of a low cross-section."""
    limit, deviation = receiver.low
    return rcs + rng.normal(0, deviation, len(rcs)) < limit


def join(parts: list[Detections]) -> Detections:
    return Detections(*(np.concatenate([getattr(p, name) for p in parts]) for name in Detections.__dataclass_fields__))


def measured(receiver: Receiver, found: Detections, rng: np.random.Generator) -> Detections:
    """With the receiver's errors of distance, azimuth, speed and strength."""
    of_distance, _, _, of_speed, of_strength = receiver.sigma
    n = len(found)
    sigma = sigma_of_azimuth(receiver, found.azimuth)
    glint = np.deg2rad(receiver.glint_deg) * (rng.random(n) < receiver.glint) * rng.normal(0, 1, n)
    return Detections(
        np.maximum(LEAST_M, found.distance + rng.normal(0, of_distance, n)),
        found.azimuth + rng.normal(0, 1, n) * sigma + glint,
        found.speed + rng.normal(0, of_speed, n),
        found.rcs + rng.normal(0, of_strength, n),
        found.state,
    )


def sigma_of_azimuth(receiver: Receiver, azimuth: Floats) -> Floats:
    """Deviation of the error of an azimuth (rad), which grows with the angle."""
    return np.deg2rad(_between(receiver.sigma[1], receiver.sigma[2], azimuth))


def rms_code(sigma: ArrayLike) -> NDArray[np.int64]:
    """The CAN interface's word for a deviation (m or m/s): the first of 31 steps from 0.005 to 10 that it is below.

    Its table is geometric, 10 steps being a factor of 10 ** 1.1.
    """
    steps = np.ceil(30 + (np.log10(np.maximum(np.asarray(sigma), 1e-6)) - 1) / 0.11)
    return np.clip(steps, 0, 30).astype(np.int64)


def _between(straight: float, aside: float, azimuth: Floats) -> Floats:
    """From the value at 0 to that at 60 degrees, as the aperture that an array shows shrinks."""
    share = (1 / np.cos(np.minimum(np.abs(azimuth), np.deg2rad(75))) - 1) / (1 / np.cos(np.deg2rad(60)) - 1)
    return straight + (aside - straight) * share
