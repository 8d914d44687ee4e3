"""Degraded modes: what is lost, by name, and how bad that is for this vehicle. No ROS.

A mode is a statement about sensors that a safety case can refer to; the parameters `modes.*` say what each means.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from bev_perception.structures import ODOMETRY

SEVERITIES = ("ok", "degraded", "error")  # from harmless to bad
MEMORY_OFF_S = 2.0  # the first frames never have a memory


@dataclass(frozen=True)
class Situation:
    """What modes are judged by. lost: sensors that do not contribute. front: the cameras that look ahead.
    without_memory_s: for how long a model with memory has had none."""

    cameras: Collection[str]
    radars: Collection[str]
    front: Collection[str]
    lost: Collection[str]
    suspect: Collection[str]
    without_memory_s: float

    def all_lost(self, sensors: Iterable[str]) -> bool:
        names = set(sensors)
        return bool(names) and names <= set(self.lost)


@dataclass(frozen=True)
class Mode:
    """holds(situation); severity: what it means unless the parameters say otherwise."""

    description: str
    severity: str
    holds: Callable[[Situation], bool]


MODES: dict[str, Mode] = {
    "no_ego_motion": Mode("Odometry does not contribute", "error", lambda s: ODOMETRY in s.lost),
    "all_cameras_lost": Mode("No camera contributes", "error", lambda s: s.all_lost(s.cameras)),
    "front_cameras_lost": Mode(
        "No camera of `front_cameras` contributes", "error", lambda s: s.all_lost(set(s.front) & set(s.cameras))
    ),
    "some_cameras_lost": Mode(
        "A camera does not contribute", "degraded", lambda s: not set(s.cameras).isdisjoint(s.lost)
    ),
    "all_radars_lost": Mode("No radar contributes", "degraded", lambda s: s.all_lost(s.radars)),
    "some_radars_lost": Mode("A radar does not contribute", "degraded", lambda s: not set(s.radars).isdisjoint(s.lost)),
    "memory_off": Mode(
        "Frames are processed without memory of earlier ones", "degraded", lambda s: s.without_memory_s > MEMORY_OFF_S
    ),
    "sensor_suspect": Mode("A sensor is used, but doubtful", "degraded", lambda s: bool(s.suspect)),
}


def modes_that_hold(of: Situation, severities: Mapping[str, str]) -> tuple[list[str], str]:
    """(names of the modes, the worst of their severities). severities: mode -> one of SEVERITIES."""
    names = [name for name, mode in MODES.items() if mode.holds(of)]
    return names, max((severities[name] for name in names), key=SEVERITIES.index, default="ok")
