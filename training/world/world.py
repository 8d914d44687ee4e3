"""The synthetic world: one drive through a small town, whose state is known exactly at any time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.world.actors import Actor, ActorState
from training.world.city import streets, traffic
from training.world.paths import Motion, MotionTable
from training.world.rig import NS, NUSCENES, Rig
from training.world.roads import plan
from training.world.styles import TOWN, Style
from training.world.town import Town, build_town
from training.world.traffic import populate

TimeOfDay = Literal["day", "dusk", "night"]


@dataclass(frozen=True)
class Conditions:
    """Light and weather. Sun angles in radians in the world frame; fog, rain and cloud from 0 to 1."""

    time_of_day: TimeOfDay
    sun_azimuth: float
    sun_elevation: float
    fog: float = 0.0
    rain: float = 0.0
    cloud: float = 0.0


@dataclass
class World:
    """A drive: the ego's motion and sensors, the actors, and the static town they are in."""

    seed: int
    duration_s: float
    conditions: Conditions
    ego: Motion
    actors: list[Actor]
    town: Town
    movers: list[Actor] = field(init=False, repr=False)
    _table: MotionTable = field(init=False, repr=False)
    _fixed_states: list[ActorState] = field(init=False, repr=False)
    style: Style = TOWN
    rig: Rig = NUSCENES
    tracer: object = field(default=None, repr=False)  # raycast keeps its scenes here

    def __post_init__(self) -> None:
        self.movers = [actor for actor in self.actors if not actor.still]
        self._table = MotionTable.of([actor.motion for actor in self.movers])
        self._fixed_states = [actor.state(0) for actor in self.actors]

    def mover_poses(self, stamp_ns: int) -> tuple[NDArray[np.float64], ...]:
        """x, y, yaw, speed and station along its path of every actor in `movers`, (N,) each."""
        return self._table.at(stamp_ns / NS)

    def poses(self, stamp_ns: int) -> NDArray[np.float64]:
        """x, y, yaw of every actor by its track id, (A, 3) float64."""
        poses = np.array([(*state.center[:2], state.yaw) for state in self._fixed_states]).reshape(-1, 3)
        poses[[actor.track_id for actor in self.movers]] = np.stack(self.mover_poses(stamp_ns)[:3], 1)
        return poses

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


def conditions_of(seed: int) -> Conditions:
    """Light and weather of the drive of this seed, without making its town."""
    return draw_conditions(np.random.default_rng([seed, 0]))


def make_world(
    seed: int, duration_s: float, conditions: Conditions | None = None, style: Style = TOWN, rig: Rig = NUSCENES
) -> World:
    """The drive of this seed, by a car with these sensors. Raises ValueError for a duration beyond 1 to 60 s."""
    if not 1.0 <= duration_s <= 60.0:
        raise ValueError(f"a drive of {duration_s} s was asked for; choose a duration between 1 and 60 s")
    roads, houses, people = (np.random.default_rng([seed, part]) for part in range(1, 4))
    if style.busy:
        layout = streets.plan(roads, duration_s)
        town = build_town(layout, houses, duration_s, furnished=True)
        actors = traffic.populate(layout, town.yards, town.benches, people, duration_s)
    else:
        layout = plan(roads, duration_s)
        town = build_town(layout, houses, duration_s)
        actors = populate(layout, town.yards, people, duration_s)
    return World(seed, duration_s, conditions or conditions_of(seed), layout.ego, actors, town, style, rig)
