"""Who is in the town: parked and moving vehicles, people, cycles and work zones."""

from __future__ import annotations

import numpy as np

from training.world.actors import Actor
from training.world.ground import Yard
from training.world.paths import Motion, Path, SpeedProfile, standing
from training.world.placing import Scene, draw_size
from training.world.roads import BEHIND_M, CROSSING_M, LANE_M, Layout, Road

PARKED = {"car": 0.47, "truck": 0.13, "trailer": 0.15, "bus": 0.09, "construction_vehicle": 0.05, "motorcycle": 0.11}
DRIVING = {"car": 0.56, "truck": 0.16, "bus": 0.14, "motorcycle": 0.14}
IN_YARD = {"car": 0.2, "truck": 0.17, "trailer": 0.26, "bus": 0.12, "construction_vehicle": 0.25}


def _still(path: Path, s: float, left: float, turn: float) -> Motion:
    x, y, yaw = path.beside(s, left)
    return standing(float(x), float(y), float(yaw) + turn)


def _work_zone(scene: Scene, road: Road, s: float, side: int) -> None:
    rng = scene.rng
    length, edge = rng.uniform(13, 24), road.lanes * LANE_M
    middle = road.half_width - 1.15
    scene.add(
        "construction_vehicle",
        _still(
            road.path,
            s + length * rng.uniform(0.4, 0.6),
            side * middle,
            rng.choice([0, np.pi]) + rng.uniform(-0.12, 0.12),
        ),
        parked=True,
    )
    for end in (s, s + length):
        scene.add("barrier", _still(road.path, end, side * middle, rng.uniform(-0.15, 0.15)), gap=0.05)
    if scene.chance(0.5):  # barriers along, like a wall
        along = np.arange(s + 1.8, s + length - 1.5, 2.9)
        for at in along:
            scene.add(
                "barrier", _still(road.path, at, side * (edge + 0.05), np.pi / 2 + rng.uniform(-0.05, 0.05)), gap=0.02
            )
    else:
        for at in np.arange(s + 1.0, s + length, rng.uniform(2.0, 3.2)):
            scene.add("traffic_cone", _still(road.path, at, side * (edge + 0.1), rng.uniform(-3, 3)), gap=0.02)
    for _ in range(rng.integers(3, 7)):
        scene.add(
            "traffic_cone",
            _still(road.path, s - rng.uniform(1, 6), side * (edge + rng.uniform(0.2, 2.3)), rng.uniform(-3, 3)),
            gap=0.05,
        )
    for _ in range(rng.integers(1, 4)):
        scene.add(
            "pedestrian",
            _still(
                road.path,
                s + rng.uniform(0, length),
                side * (road.half_width - rng.uniform(0.3, 2)),
                rng.uniform(-np.pi, np.pi),
            ),
        )


def _parked(scene: Scene, road: Road) -> None:
    rng = scene.rng
    for side in (-1, 1):
        s = rng.uniform(2, 8)
        heading = 0.0 if side < 0 else np.pi
        density = rng.uniform(0.5, 0.85)
        while s < road.path.length:
            name = scene.pick(PARKED)
            size = draw_size(name, False, rng)
            slot = size[0] + rng.uniform(0.7, 2.2)
            if name == "motorcycle":
                slot = 1.4 * (count := int(rng.integers(2, 4)))
            mid = s + slot / 2
            if road.clear(mid, slot / 2 + 0.5) and scene.chance(density):
                turned = np.pi if scene.chance(0.12) else 0.0
                if name == "motorcycle":
                    for k in range(count):
                        scene.add(
                            name if scene.chance(0.6) else "bicycle",
                            _still(
                                road.path,
                                s + 0.7 + 1.4 * k,
                                side * (road.half_width - 1.2),
                                np.pi / 2 * side + rng.uniform(-0.3, 0.3),
                            ),
                            gap=0.1,
                        )
                elif name == "car" and scene.chance(0.18):  # nose to the kerb, half on the pavement
                    d = road.half_width + 0.5
                    scene.add(
                        name,
                        _still(road.path, s + 1.5, side * d, -side * np.pi / 2 + rng.uniform(-0.15, 0.15)),
                        parked=True,
                        size=size,
                    )
                    slot = 3.0
                else:
                    d = road.half_width - size[1] / 2 - 0.12 + rng.uniform(-0.08, 0.05)
                    motion = _still(road.path, mid, side * d, heading + turned + rng.normal(0, 0.03))
                    scene.add(name, motion, parked=True, size=size)
            s += slot


def _yard(scene: Scene, yard: Yard) -> None:
    rng = scene.rng
    c, s = np.cos(yard.yaw), np.sin(yard.yaw)
    lean = rng.choice([np.pi / 2, np.pi / 2, 0.0]) + rng.uniform(-0.4, 0.4)
    for u in np.arange(-yard.length / 2 + 2.4, yard.length / 2 - 1.0, 3.9):
        if scene.chance(0.75):
            name = scene.pick(IN_YARD)
            size = draw_size(name, False, rng)
            v = rng.uniform(-0.5, 0.5) * max(0.0, yard.depth - size[0])
            yaw = yard.yaw + lean + rng.uniform(-0.12, 0.12) + rng.choice([0, np.pi])
            scene.add(
                name, standing(yard.x + c * u - s * v, yard.y + s * u + c * v, yaw), parked=True, size=size, gap=0.4
            )


def _lane_traffic(
    scene: Scene,
    lane: Path,
    profile: SpeedProfile,
    first: float,
    last: float,
    gap: tuple[float, float],
    weights: dict[str, float],
) -> None:
    """Vehicles behind one another, all with the same speed profile, from station `first` to `last` at t = 0."""
    rng = scene.rng
    s = first
    while s < last:
        name = scene.pick(weights)
        rider = name == "motorcycle"
        size = draw_size(name, rider, rng)
        if scene.add(name, Motion(lane, profile, s + size[0] / 2), rider=rider, gap=0.3, size=size):
            s += size[0]
            if name == "truck" and scene.chance(0.45):  # the lorry before it pulls a trailer
                towed = draw_size("trailer", False, rng)
                behind = s - size[0] - towed[0] / 2 - 0.7
                scene.add("trailer", Motion(lane, profile, behind), gap=0.1, size=towed)
        s += rng.uniform(*gap)


def _steady(scene: Scene, low: float, high: float) -> SpeedProfile:
    t = np.arange(-4.0, scene.times[-1] + 8.0, 4.0)
    v = np.clip(scene.rng.uniform(low, high) + scene.rng.uniform(-2, 2, len(t)), 1.0, None)
    return SpeedProfile.through(t, v)


STOPPED = SpeedProfile.through([0.0, 1.0], [0.0, 0.0])


def _main_traffic(scene: Scene, layout: Layout) -> None:
    road, ego = layout.roads[0], layout.ego
    travelled = float(ego.profile.at(scene.times[-1])[0])
    _lane_traffic(
        scene, ego.path, ego.profile, BEHIND_M + 9 + scene.rng.uniform(0, 14), BEHIND_M + 110, (9, 40), DRIVING
    )
    _lane_traffic(scene, ego.path, ego.profile, BEHIND_M - 75, BEHIND_M - 14, (9, 35), DRIVING)
    for k in range(road.lanes):
        lane = road.lane(k, False)
        profile = _steady(scene, 4, 12)
        if scene.chance(0.25):
            profile = STOPPED
        gone = float(profile.at(scene.times[-1])[0])
        first = lane.length - BEHIND_M - travelled - 80 - gone
        _lane_traffic(scene, lane, profile, first, lane.length - 40, (8, 38), DRIVING)
        if k != layout.ego_road_lane:
            beside = _steady(scene, 4, 11)
            _lane_traffic(scene, road.lane(k, True), beside, BEHIND_M - 60, BEHIND_M + travelled + 80, (8, 40), DRIVING)


def _cross_traffic(scene: Scene, road: Road) -> None:
    rng = scene.rng
    (at, half), *_ = road.junctions
    for forward in (True, False):
        for k in range(road.lanes):
            lane = road.lane(k, forward)
            stop = (at if forward else road.path.length - at) - half - CROSSING_M - 0.8
            if scene.chance(0.6):  # a queue at the stop line
                s = stop
                for _ in range(rng.integers(1, 4)):
                    name = scene.pick(DRIVING)
                    rider = name == "motorcycle"
                    size = draw_size(name, rider, rng)
                    scene.add(name, Motion(lane, STOPPED, s - size[0] / 2), rider=rider, size=size)
                    s -= size[0] + rng.uniform(1.2, 3.0)
                away = (at if forward else road.path.length - at) + half + 15
                _lane_traffic(scene, lane, _steady(scene, 3, 9), away, away + 100, (10, 40), DRIVING)
            else:
                _lane_traffic(scene, lane, _steady(scene, 4, 11), stop - 130, stop + 100, (12, 45), DRIVING)


def _walkers(scene: Scene, road: Road) -> None:
    rng = scene.rng
    for side in (-1, 1):
        s = rng.uniform(0, 8)
        while s < road.path.length:
            walks = scene.chance(0.68)
            speed = rng.uniform(0.7, 1.9) if walks else 0.0
            forward = scene.chance(0.5)
            group = 1 if scene.chance(0.65) else int(rng.integers(2, 4))
            for k in range(group):
                d = side * (road.half_width + rng.uniform(0.9, 2.3))
                at = s + k * 0.9 + rng.uniform(-0.2, 0.2)
                if walks:
                    path = road.path.offset(d)
                    path = path if forward else path.reversed()
                    start = at if forward else path.length - at
                    motion = Motion(path, SpeedProfile.through([0.0, 1.0], [speed, speed]), start)
                else:
                    motion = _still(road.path, at, d, rng.uniform(-np.pi, np.pi))
                scene.add("pedestrian", motion, gap=0.12)
            s += rng.uniform(9, 25)
        s = rng.uniform(0, 40)
        while s < road.path.length:  # cycle stands and barriers on the pavement
            kind = rng.random()
            for k in range(rng.integers(2, 5)):
                if kind < 0.6:
                    name = "bicycle" if scene.chance(0.75) else "motorcycle"
                    yaw = np.pi / 2 + rng.normal(0, 0.15)
                    scene.add(name, _still(road.path, s + k * 0.95, side * (road.half_width + 1.3), yaw), gap=0.05)
                elif road.clear(s + k * 2.9, 1.0):
                    d = road.half_width + 0.35
                    scene.add(
                        "barrier", _still(road.path, s + k * 2.9, side * d, np.pi / 2 + rng.normal(0, 0.04)), gap=0.02
                    )
            s += rng.uniform(28, 65)


def _crossers(scene: Scene, road: Road) -> None:
    """People on the crossings, and some between the junctions."""
    rng = scene.rng
    places = [(at + way * (half + rng.uniform(0.9, 3.0)), True) for at, half in road.junctions for way in (-1, 1)]
    places += [(s, False) for s in np.arange(20, road.path.length, 45) if road.clear(s, 3)]
    for s, crossing in places:
        for _ in range(rng.integers(1, 4) if crossing else rng.integers(0, 2)):
            side = rng.choice([-1, 1])
            wide = road.half_width + 2.5
            x, y, yaw = (float(v) for v in road.path.beside(s + rng.uniform(-0.8, 0.8), side * wide))
            path = Path.from_segments(x, y, yaw - side * np.pi / 2, [(2 * wide, 0.0)])
            speed = rng.uniform(0.9, 1.9)
            begin = rng.uniform(-2 * wide / speed, scene.times[-1])
            # Waits, crosses, waits: half a second to set off and to halt.
            knots = np.array([begin, begin + 0.5, begin + 2 * wide / speed, begin + 2 * wide / speed + 0.5])
            profile = SpeedProfile.through(knots, [0.0, speed, speed, 0.0])
            scene.add("pedestrian", Motion(path, profile, float(profile.at(0.0)[0] - profile.s[0])), gap=0.15)


def _riders(scene: Scene, road: Road) -> None:
    rng = scene.rng
    for forward in (True, False):
        lane = road.path if forward else road.path.reversed()
        lane = lane.offset(-(road.lanes * LANE_M - 0.42))
        s = rng.uniform(0, 20)
        while s < lane.length:
            speed = rng.uniform(2.5, 6.0)
            motion = Motion(lane, SpeedProfile.through([0.0, 1.0], [speed, speed]), s)
            name = "bicycle" if scene.chance(0.85) else "motorcycle"
            scene.add(name, motion, rider=True, gap=0.1)
            s += rng.uniform(16, 45)


def populate(layout: Layout, yards: list[Yard], rng: np.random.Generator, duration_s: float) -> list[Actor]:
    """All actors of a drive; nobody overlaps anybody, nor the ego, at any time of the drive."""
    scene = Scene.around(layout.ego, duration_s, rng)
    _main_traffic(scene, layout)
    for road in layout.roads[1:]:
        _cross_traffic(scene, road)
    for road in layout.roads:
        s = rng.uniform(10, 40)
        while s < road.path.length - 30:
            if road.clear(s, 7) and road.clear(s + 24, 2):
                _work_zone(scene, road, s, int(rng.choice([-1, 1])))
            s += rng.uniform(30, 58)
        _riders(scene, road)
        _crossers(scene, road)
        _parked(scene, road)
        _walkers(scene, road)
    for yard in yards:
        _yard(scene, yard)
    return scene.actors
