"""Which sensor of the rig is which of the model's? By where each looks and sits in the rig that it learnt from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from bev_perception.bundle import Bundle
from bev_perception.golden_frame import read_golden_frame

DEGREES_PER_METRE = 5.0  # a metre of place weighs as much as so many degrees of direction
FARTHEST_M = 4.0  # beyond, vehicles differ in size
FARTHEST_DEG = 60.0  # a sensor that looks further from its part has another part, or none


@dataclass(frozen=True)
class Part:
    """A sensor that was given a part of the model. off_deg: between where it looks and where the model's looks, to the
    left; off_m: between their places; next_best: the model's sensor that it would be otherwise, with how far off."""

    sensor: str
    looks_deg: float
    off_deg: float
    off_m: float
    next_best: str = ""


def model_poses(bundle: Bundle) -> dict[str, np.ndarray]:
    """Sensor -> ego_from_sensor (4, 4) of the rig in the bundle's golden frame. Raises BundleError."""
    frames, _ = read_golden_frame(bundle)
    frame = frames[-1]
    cameras = zip(bundle.spec.cameras, frame.cameras)
    poses = {name: view.calibration.ego_from_cam for name, view in cameras if view is not None}
    return poses | {name: sweeps[0].ego_from_radar for name, sweeps in zip(bundle.spec.radars, frame.radars) if sweeps}


def heading_deg(ego_from_sensor: np.ndarray, looks_along: int) -> float:
    """Where it looks about +z from +x."""
    return math.degrees(math.atan2(ego_from_sensor[1, looks_along], ego_from_sensor[0, looks_along]))


def _apart_deg(a: float, b: float) -> float:
    """a - b within a circle."""
    return (a - b + 180.0) % 360.0 - 180.0


def assign(rig: Mapping[str, np.ndarray], model: Mapping[str, np.ndarray], looks_along: int) -> dict[str, Part]:
    """{name in the rig: its part}; poses (4, 4) of one kind of sensor. Those that find no part are left out.

    The parts as a whole are as near as they can be: each sensor has one part, each part one sensor.
    """
    names, parts = list(rig), list(model)
    costs = {(a, b): _cost(rig[a], model[b], looks_along) for a in names for b in parts}

    @cache
    def best(first: int, free: int) -> tuple[float, tuple[int, ...]]:
        """(cost, part of each sensor from `first` on or -1), with the parts whose bits are set."""
        if first == len(names):
            return 0.0, ()
        cost, rest = best(first + 1, free)
        found = (cost + FARTHEST_DEG + DEGREES_PER_METRE * FARTHEST_M, (-1, *rest))
        for k, part in enumerate(parts):
            near = costs[names[first], part]
            if free >> k & 1 and abs(_off_deg(rig[names[first]], model[part], looks_along)) <= FARTHEST_DEG:
                cost, rest = best(first + 1, free & ~(1 << k))
                found = min(found, (near + cost, (k, *rest)))
        return found

    chosen = best(0, (1 << len(parts)) - 1)[1]
    return {name: _part(name, parts[k], rig, model, costs, looks_along) for name, k in zip(names, chosen) if k >= 0}


def _part(
    name: str,
    part: str,
    rig: Mapping[str, np.ndarray],
    model: Mapping[str, np.ndarray],
    costs: Mapping[tuple[str, str], float],
    looks_along: int,
) -> Part:
    others = sorted((costs[name, other], other) for other in model if other != part)
    off_deg = _off_deg(rig[name], model[part], looks_along)
    off_m = float(np.linalg.norm(rig[name][:3, 3] - model[part][:3, 3]))
    other = others[0][1] if others else ""
    next_best = f"{other}, {abs(_off_deg(rig[name], model[other], looks_along)):.0f} degrees away" if other else ""
    return Part(part, heading_deg(rig[name], looks_along), off_deg, off_m, next_best)


def _off_deg(pose: np.ndarray, part: np.ndarray, looks_along: int) -> float:
    return _apart_deg(heading_deg(pose, looks_along), heading_deg(part, looks_along))


def _cost(pose: np.ndarray, part: np.ndarray, looks_along: int) -> float:
    off_m = min(float(np.linalg.norm(pose[:3, 3] - part[:3, 3])), FARTHEST_M)
    return abs(_off_deg(pose, part, looks_along)) + DEGREES_PER_METRE * off_m
