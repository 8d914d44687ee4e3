"""The objects of the ten detection classes: what each looks like, how it moves, where it is at a time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.tables.vocabulary import CATEGORY_OF
from training.world.city.bodies import sits
from training.world.paths import Motion
from training.world.rig import NS


@dataclass(frozen=True)
class ActorState:
    """Where an actor is at one time, in the world frame: gravity centre (m), l w h (m), yaw (rad), velocity (m/s)."""

    track_id: int
    category: str
    name: str
    attribute: str
    center: NDArray[np.float64]
    size_lwh: NDArray[np.float64]
    yaw: float
    velocity: NDArray[np.float64]


@dataclass(frozen=True)
class Actor:
    """One object of the ten detection classes: what it looks like (`name`, size, `style`) and how it moves.

    `style` seeds the shape's variant and colours. `rider` matters to cycles, `parked` to vehicles.
    """

    track_id: int
    name: str
    size_lwh: NDArray[np.float64]
    motion: Motion
    style: int
    rider: bool = False
    parked: bool = False
    still: bool = False

    @property
    def category(self) -> str:
        return CATEGORY_OF[self.name]

    def attribute(self, speed: float) -> str:
        """The nuScenes attribute at this speed; '' for cones and barriers, which have none."""
        if self.name in ("traffic_cone", "barrier"):
            return ""
        if self.name == "pedestrian" and sits(self.size_lwh):
            return "pedestrian.sitting_lying_down"
        if self.name == "pedestrian":
            return "pedestrian.moving" if speed > 0.2 else "pedestrian.standing"
        if self.name in ("motorcycle", "bicycle"):
            return "cycle.with_rider" if self.rider else "cycle.without_rider"
        if self.parked:
            return "vehicle.parked"
        return "vehicle.moving" if speed > 0.2 else "vehicle.stopped"

    def state(self, stamp_ns: int) -> ActorState:
        x, y, yaw, v, _ = (float(value) for value in self.motion.at(stamp_ns / NS))
        return self.state_at(x, y, yaw, v)

    def state_at(self, x: float, y: float, yaw: float, speed: float) -> ActorState:
        heading = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        center = np.array([x, y, self.size_lwh[2] / 2])
        yaw = float(np.arctan2(heading[1], heading[0]))
        return ActorState(
            self.track_id, self.category, self.name, self.attribute(speed), center, self.size_lwh, yaw, speed * heading
        )
