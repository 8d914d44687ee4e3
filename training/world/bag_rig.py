"""Which sensors of the car a recording has, and what it calls them: as the node expects it by default, or otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

POLAR_DTYPE = np.dtype(
    [("range", "<f4"), ("azimuth", "<f4"), ("elevation", "<f4"), ("radial_speed", "<f4"), ("rcs", "<f4")]
)


def as_listed(points: np.ndarray) -> np.ndarray:
    """The 18 fields of nuScenes' radar."""
    return points


def as_polar(points: np.ndarray) -> np.ndarray:
    """Structured returns with x, y, z, vx, vy, rcs -> (P,) POLAR_DTYPE: m, rad, m/s relative to the radar and positive
    away, dBsm; as radars say it that do not track."""
    x, y, z = (points[name].astype(np.float64) for name in "xyz")
    flat = np.hypot(x, y)
    polar = np.empty(len(points), POLAR_DTYPE)
    polar["range"], polar["azimuth"] = np.hypot(flat, z), np.arctan2(y, x)
    polar["elevation"] = np.arctan2(z, flat)
    polar["radial_speed"] = (points["vx"] * x + points["vy"] * y) / np.maximum(flat, 1e-6)
    polar["rcs"] = points["rcs"]
    return polar


@dataclass(frozen=True)
class BagRig:
    """names: sensor of RIG -> its name in `topics`, by kind, as {name}; frames: as {name}, by kind of sensor.

    truth_at: the camera at whose stamps there is ground truth. returns: how a radar's cloud is laid out.
    """

    names: Mapping[str, str]
    topics: Mapping[str, str]
    frames: Mapping[str, str]
    truth_at: str
    returns: Callable[[np.ndarray], np.ndarray] = as_listed


# A vehicle whose builder had other ideas: four cameras, two radars that send angles and Doppler.
OTHER = BagRig(
    names={
        "CAM_FRONT": "front",
        "CAM_FRONT_LEFT": "left",
        "CAM_FRONT_RIGHT": "right",
        "CAM_BACK": "rear",
        "RADAR_FRONT": "bumper",
        "RADAR_BACK_LEFT": "tail",
    },
    topics={
        "raw": "/sensing/{name}/image_color",
        "jpeg": "/sensing/{name}/image_color/compressed",
        "camera_info": "/sensing/{name}/camera_info",
        "radar": "/sensing/radar/{name}",
        "odometry": "/wheels/odometry",
    },
    frames={"camera": "{name}_optical", "radar": "{name}_radar"},
    truth_at="CAM_BACK",
    returns=as_polar,
)
# Values of `--rig`; None: all sensors, by the names of bag_writer.TOPICS.
BAG_RIGS: dict[str, BagRig | None] = {"nuscenes": None, "other": OTHER}
