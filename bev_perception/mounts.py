"""Within which bounds a model has seen its cameras mounted, and what is unlike that in the calibration of a vehicle.

A camera branch learns how the ground looks from where its cameras stand: from another height, angle or lens it errs
without saying so (Klinghoffer et al., ICCV 2023). So a bundle states what it accepts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class CameraMount:
    """(low, high) of each: height above the ground, m; degrees that the optical axis points up and, seen from above, to
    the left, of which low may be below -180; degrees that the image is rolled to the right; horizontal field of view.

    Raises ValueError unless low <= high, both are numbers and the yaw's are at most 360 degrees apart.
    """

    height_m: Range
    pitch_deg: Range
    yaw_deg: Range
    roll_deg: Range
    view_deg: Range

    def __post_init__(self) -> None:
        for field in fields(self):
            low, high = getattr(self, field.name)
            if not -1000.0 <= low <= high <= 1000.0 or (field.name == "yaw_deg" and high - low > 360.0):
                raise ValueError(f"{field.name} must be a lower and a higher number of a camera, found {low}, {high}")


# How much else is accepted than what was seen: what costs little, and what a rack and a bracket differ by.
MARGIN = {"height_m": 0.2, "pitch_deg": 3.0, "yaw_deg": 8.0, "roll_deg": 3.0, "view_deg": 5.0}
SAID = {
    "height_m": "stands {:.2f} m above the ground", "pitch_deg": "looks up by {:.1f} degrees",
    "yaw_deg": "looks to the left by {:.0f} degrees", "roll_deg": "is rolled by {:.1f} degrees",
    "view_deg": "sees {:.0f} degrees across",
}  # fmt: skip


def mount_of(ego_from_cam: np.ndarray, K: np.ndarray, width: int) -> dict[str, float]:
    """Pose (4, 4), optical axes; K (3, 3) of images of `width` pixels -> the fields of CameraMount, each a number."""
    right, down, ahead = ego_from_cam[:3, :3].T
    return {
        "height_m": float(ego_from_cam[2, 3]),
        "pitch_deg": math.degrees(math.asin(min(1.0, max(-1.0, float(ahead[2]))))),
        "yaw_deg": math.degrees(math.atan2(ahead[1], ahead[0])),
        "roll_deg": math.degrees(math.atan2(-right[2], -down[2])),
        "view_deg": math.degrees(2 * math.atan(width / 2 / float(K[0, 0]))),
    }


def accepted(seen: Iterable[dict[str, float]]) -> CameraMount:
    """What `mount_of` gave for a camera of each drive that was learnt from -> their range, wider by MARGIN."""
    rows = list(seen)
    middle = rows[0]["yaw_deg"]
    rows = [row | {"yaw_deg": middle + _turn(row["yaw_deg"] - middle)} for row in rows]
    ranges = {
        name: (
            round(min(row[name] for row in rows) - margin, 3),
            round(max(row[name] for row in rows) + margin, 3),
        )
        for name, margin in MARGIN.items()
    }
    low, high = ranges["yaw_deg"]
    if high - low > 360.0:
        ranges["yaw_deg"] = (-180.0, 180.0)
    return CameraMount(**ranges)


def unlike(found: dict[str, float], expected: CameraMount) -> str:
    """ "", or what of `mount_of` is beyond what a model accepts."""
    said = []
    for name, value in found.items():
        low, high = getattr(expected, name)
        beyond = _turn(value - (low + high) / 2) if name == "yaw_deg" else value - (low + high) / 2
        if abs(beyond) > (high - low) / 2:
            said.append(f"{SAID[name].format(value)}, the model accepts {low:g} to {high:g}")
    return "; ".join(said)


def _turn(degrees: float) -> float:
    """The same turn within [-180, 180)."""
    return (degrees + 180.0) % 360.0 - 180.0
