"""Where the roads of a drive run, and how the ego car drives along them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.world.paths import Motion, Path, SpeedProfile

LANE_M = 3.5
PARKING_M = 2.7
PAVEMENT_M = 3.2
BEHIND_M = 120.0  # road before the ego's start
AHEAD_M = 130.0
CROSSING_M = 4.5  # from the edge of the crossing road to the stop line


@dataclass(frozen=True)
class Road:
    """A centreline with `lanes` per direction, a parking strip and a pavement on either side.

    `junctions` lists (station, half width of the road that crosses there).
    """

    path: Path
    lanes: int
    junctions: tuple[tuple[float, float], ...]

    @property
    def half_width(self) -> float:
        return self.lanes * LANE_M + PARKING_M

    def lane(self, k: int, forward: bool) -> Path:
        """Centreline of lane k (0 is next to the middle) in its direction of travel; traffic keeps right."""
        path = self.path if forward else self.path.reversed()
        return path.offset(-(k + 0.5) * LANE_M)

    def clear(self, s: float, margin: float) -> bool:
        """Whether station s keeps `margin` metres from every junction's crossings."""
        return all(abs(s - at) > half + CROSSING_M + margin for at, half in self.junctions)


@dataclass(frozen=True)
class Wait:
    """The ego stands from `begin_s` to `end_s` at the stop line before the junction at station `at` of the road."""

    at: float
    begin_s: float
    end_s: float


@dataclass(frozen=True)
class Layout:
    """Roads (the main one first), the ego's motion, its lane, and the red light at which it waits, if it does."""

    roads: list[Road]
    ego: Motion
    ego_road_lane: int
    wait: Wait | None = None


def _ego_speed(rng: np.random.Generator, duration_s: float, turn_at_s: float | None) -> SpeedProfile:
    step = 2.5
    t = np.arange(-step, duration_s + 2 * step, step)
    v = np.empty(len(t))
    v[0] = rng.uniform(4, 11)
    for i in range(1, len(t)):
        v[i] = np.clip(v[i - 1] + rng.uniform(-5, 5.5), 2.0, 13.5)
    if turn_at_s is None and len(t) > 5 and rng.random() < 0.35:  # wait somewhere, then drive on
        stop = rng.integers(2, len(t) - 2)
        v[stop : stop + 2] = 0.0
        v[[stop - 1, min(stop + 2, len(t) - 1)]] = np.minimum(v[[stop - 1, min(stop + 2, len(t) - 1)]], 6.0)
    if turn_at_s is not None:
        first = int(np.searchsorted(t, turn_at_s))
        v[first : first + 3] = 5.0
        v[first - 1] = min(v[first - 1], 9.0)
    return SpeedProfile.through(t, v)


def crossing(main: Path, s: float, lean: float, half_length: float, lanes: int, main_half: float) -> Road:
    x, y, heading = (float(value) for value in main.at(s))
    across = heading + np.pi / 2 + lean
    start = x - half_length * np.cos(across), y - half_length * np.sin(across)
    path = Path.from_segments(*start, across, [(2 * half_length, 0.0)])
    return Road(path, lanes, ((half_length, main_half),))


def plan(rng: np.random.Generator, duration_s: float) -> Layout:
    """Draw a road network and the ego's drive: straight or gently curved on, or a turn at a junction."""
    turning = bool(duration_s >= 8 and rng.random() < 0.35)
    turn_at = duration_s * rng.uniform(0.3, 0.6) if turning else None
    profile = _ego_speed(rng, duration_s, turn_at)
    lanes = 2 if rng.random() < 0.35 else 1
    lane = int(rng.integers(lanes))
    main_half = lanes * LANE_M + PARKING_M
    heading = float(rng.uniform(-np.pi, np.pi))
    reach = BEHIND_M + float(profile.at(duration_s)[0]) + AHEAD_M

    stations: list[float] = []
    segments: list[tuple[float, float]] = []
    cross_lanes: list[int] = []
    if turn_at is not None:
        left = rng.random() < 0.5
        cross = 2 if rng.random() < 0.3 else 1
        target = (cross - 0.5) * LANE_M
        radius = rng.uniform(11, 14) if left else rng.uniform(7.5, 9.5)
        lane = 0 if left else lanes - 1
        knot = profile.t[int(np.searchsorted(profile.t, turn_at))]
        arc_start = BEHIND_M + float(profile.at(knot)[0])
        stations.append(arc_start + radius + (-target if left else target))
        cross_lanes.append(cross)
        segments.append((max(reach, stations[0] + AHEAD_M), 0.0))
        if stations[0] > 190:
            stations.append(stations[0] - rng.uniform(80, 110))
            cross_lanes.append(1)
    else:
        s = rng.uniform(60, 100)
        straight = s + 30
        while s < reach - 30:
            stations.append(s)
            cross_lanes.append(2 if rng.random() < 0.2 else 1)
            gap = rng.uniform(90, 140)
            if rng.random() < 0.65:
                arc = gap - 55
                segments += [(straight, 0.0), (arc, rng.choice([-1, 1]) * rng.uniform(0.12, 0.45) / arc)]
                straight = 55.0
            else:
                straight += gap
            s += gap
        segments.append((straight + AHEAD_M, 0.0))
    main = Path.from_segments(0.0, 0.0, heading, segments)

    roads = []
    for i, (s, n) in enumerate(zip(stations, cross_lanes)):
        turns_here = turning and i == 0
        length = AHEAD_M + (14.0 * duration_s if turns_here else 0.0)
        roads.append(crossing(main, s, 0.0 if turns_here else rng.uniform(-0.2, 0.2), length, n, main_half))
    joined = tuple(zip(stations, (road.half_width for road in roads)))
    main_road = Road(main, lanes, joined)

    route = main_road.lane(lane, True)
    if turn_at is not None:
        x, y, _ = (float(value) for value in route.at(0.0))
        bend = (np.pi / 2 * radius, (1 if left else -1) / radius)
        route = Path.from_segments(x, y, heading, [(arc_start, 0.0), bend, (500.0, 0.0)])
    return Layout([main_road, *roads], Motion(route, profile, BEHIND_M), lane)
