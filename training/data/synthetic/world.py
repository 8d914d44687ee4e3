"""The synthetic world: one drive through a small town, whose state is known exactly at any time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.data.synthetic.paths import Motion, MotionTable
from training.data.synthetic.rig import NS
from training.data.synthetic.roads import plan
from training.data.synthetic.town import Town, build_town

TimeOfDay = Literal["day", "dusk", "night"]

CATEGORIES = {
    "car": "vehicle.car",
    "truck": "vehicle.truck",
    "bus": "vehicle.bus.rigid",
    "trailer": "vehicle.trailer",
    "construction_vehicle": "vehicle.construction",
    "pedestrian": "human.pedestrian.adult",
    "motorcycle": "vehicle.motorcycle",
    "bicycle": "vehicle.bicycle",
    "traffic_cone": "movable_object.trafficcone",
    "barrier": "movable_object.barrier",
}


@dataclass(frozen=True)
class Conditions:
    """Light and weather. Sun angles in radians in the world frame; fog, rain and cloud from 0 to 1."""

    time_of_day: TimeOfDay
    sun_azimuth: float
    sun_elevation: float
    fog: float = 0.0
    rain: float = 0.0
    cloud: float = 0.0


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
        return CATEGORIES[self.name]

    def attribute(self, speed: float) -> str:
        """The nuScenes attribute at this speed; '' for cones and barriers, which have none."""
        if self.name in ("traffic_cone", "barrier"):
            return ""
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


@dataclass
class World:
    """A drive: the ego's motion, the actors, and the static town they are in."""

    seed: int
    duration_s: float
    conditions: Conditions
    ego: Motion
    actors: list[Actor]
    town: Town
    movers: list[Actor] = field(init=False, repr=False)
    _table: MotionTable = field(init=False, repr=False)
    _fixed_states: list[ActorState] = field(init=False, repr=False)
    tracer: object = field(default=None, repr=False)  # raycast keeps its scenes here

    def __post_init__(self) -> None:
        self.movers = [actor for actor in self.actors if not actor.still]
        self._table = MotionTable.of([actor.motion for actor in self.movers])
        self._fixed_states = [actor.state(0) for actor in self.actors]

    def mover_poses(self, stamp_ns: int) -> tuple[NDArray[np.float64], ...]:
        """x, y, yaw, speed and station along its path of every actor in `movers`, (N,) each."""
        return self._table.at(stamp_ns / NS)

    def ego_pose(self, stamp_ns: int) -> NDArray[np.float64]:
        """world_from_ego, (4, 4) float64."""
        x, y, yaw, *_ = self.ego.at(stamp_ns / NS)
        c, s = np.cos(yaw), np.sin(yaw)
        return np.array([[c, -s, 0.0, x], [s, c, 0.0, y], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])

    def ego_twist(self, stamp_ns: int) -> tuple[float, float, float]:
        """vx, vy (m/s) and yaw rate (rad/s) in the ego frame; no side slip at the rear axle."""
        *_, v, s = self.ego.at(stamp_ns / NS)
        return float(v), 0.0, float(v * self.ego.path.curvature_at(s))

    def actor_states(self, stamp_ns: int, max_range_m: float | None = None) -> list[ActorState]:
        """All actors at this time, in the world frame; with `max_range_m`, those whose centre is that near the ego."""
        states = list(self._fixed_states)
        for actor, *pose in zip(self.movers, *self.mover_poses(stamp_ns)[:4]):
            states[actor.track_id] = actor.state_at(*(float(value) for value in pose))
        if max_range_m is None:
            return states
        centre = self.ego_pose(stamp_ns)[:2, 3]
        return [state for state in states if np.hypot(*(state.center[:2] - centre)) <= max_range_m]


def draw_conditions(rng: np.random.Generator) -> Conditions:
    """About 60 % day, 20 % dusk, 20 % night; some with cloud, fog or rain."""
    time: TimeOfDay = ("day", "dusk", "night")[rng.choice(3, p=(0.6, 0.2, 0.2))]  # type: ignore[assignment]
    elevation = {"day": rng.uniform(0.4, 1.15), "dusk": rng.uniform(0.06, 0.22), "night": -0.3}[time]
    rain = float(rng.uniform(0.3, 1.0)) if rng.random() < 0.2 else 0.0
    fog = float(rng.uniform(0.2, 0.8)) if rng.random() < 0.15 else 0.0
    cloud = float(rng.uniform(0.75, 1.0)) if rain or fog else float(rng.uniform(0.0, 1.0) ** 1.5)
    return Conditions(time, float(rng.uniform(-np.pi, np.pi)), float(elevation), fog, rain, cloud)


def make_world(seed: int, duration_s: float, conditions: Conditions | None = None) -> World:
    """The drive of this seed. Raises ValueError when the duration is not between 1 and 60 s."""
    if not 1.0 <= duration_s <= 60.0:
        raise ValueError(f"a drive of {duration_s} s was asked for; choose a duration between 1 and 60 s")
    # Imported late: traffic builds on this module's Actor.
    from training.data.synthetic.traffic import populate

    weather, roads, houses, people = (np.random.default_rng([seed, part]) for part in range(4))
    layout = plan(roads, duration_s)
    town = build_town(layout, houses, duration_s)
    actors = populate(layout, town.yards, people, duration_s)
    return World(seed, duration_s, conditions or draw_conditions(weather), layout.ego, actors, town)
