"""Where the streets of a city drive run and how the ego drives along them; where it waits, it does so at a junction."""

from __future__ import annotations

import numpy as np

from training.world.paths import Motion, Path, SpeedProfile
from training.world.placing import EGO_CENTRE_AHEAD, EGO_LENGTH
from training.world.roads import AHEAD_M, BEHIND_M, CROSSING_M, LANE_M, PARKING_M, Layout, Road, Wait, crossing


def _ego_speed(
    rng: np.random.Generator, duration_s: float, turn_at_s: float | None
) -> tuple[SpeedProfile, tuple[float, float] | None]:
    """The ego's speed, and from when to when it waits at a stop line, if it does."""
    step = 2.5
    t = np.arange(-step, duration_s + 2 * step, step)
    v = np.empty(len(t))
    v[0] = rng.uniform(4, 11)
    for i in range(1, len(t)):
        v[i] = np.clip(v[i - 1] + rng.uniform(-5, 5.5), 2.0, 13.5)
    waits = None
    if turn_at_s is None and len(t) > 5 and rng.random() < 0.4:  # wait at a junction, then drive on
        stop, knots = int(rng.integers(2, len(t) - 2)), int(rng.integers(2, 4))
        v[stop : stop + knots] = 0.0
        around = [stop - 1, min(stop + knots, len(t) - 1)]
        v[around] = np.minimum(v[around], 6.0)
        waits = float(t[stop]), float(t[min(stop + knots, len(t)) - 1])
    if turn_at_s is not None:
        first = int(np.searchsorted(t, turn_at_s))
        v[first : first + 3] = 5.0
        v[first - 1] = min(v[first - 1], 9.0)
    return SpeedProfile.through(t, v), waits


def _junctions(rng: np.random.Generator, reach: float, stop_line: float | None) -> tuple[list[float], list[int]]:
    """Stations of the roads that cross, 90 to 140 m apart, and their lanes a direction; one is behind the stop line."""
    stations, lanes = [float(rng.uniform(60, 100))], [2 if rng.random() < 0.2 else 1]
    if stop_line is not None:
        stations[0] = stop_line + CROSSING_M + lanes[0] * LANE_M + PARKING_M
        while stations[0] > 200:
            stations.insert(0, stations[0] - float(rng.uniform(90, 140)))
            lanes.insert(0, 2 if rng.random() < 0.2 else 1)
    while (following := stations[-1] + float(rng.uniform(90, 140))) < reach - 30:
        stations.append(following)
        lanes.append(2 if rng.random() < 0.2 else 1)
    return stations, lanes


def plan(rng: np.random.Generator, duration_s: float) -> Layout:
    """Draw a road network and the ego's drive: straight or gently curved on, or a turn at a junction."""
    turning = bool(duration_s >= 8 and rng.random() < 0.35)
    turn_at = duration_s * rng.uniform(0.3, 0.6) if turning else None
    profile, waits = _ego_speed(rng, duration_s, turn_at)
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
        stop_line = None
        if waits is not None:
            front = EGO_CENTRE_AHEAD + EGO_LENGTH / 2
            stop_line = BEHIND_M + float(profile.at(waits[0])[0]) + front + rng.uniform(0.4, 1.5)
        stations, cross_lanes = _junctions(rng, reach, stop_line)
        straight = stations[0] + 30
        for s, following in zip(stations, [*stations[1:], stations[-1] + 115.0]):
            gap = following - s
            if rng.random() < 0.65:
                arc = gap - 55
                segments += [(straight, 0.0), (arc, rng.choice([-1, 1]) * rng.uniform(0.12, 0.45) / arc)]
                straight = 55.0
            else:
                straight += gap
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
    wait = None
    if waits is not None:
        ahead = [s for s in stations if s > BEHIND_M + float(profile.at(waits[0])[0])]
        wait = Wait(ahead[0], *waits)
    return Layout([main_road, *roads], Motion(route, profile, BEHIND_M), lane, wait)
