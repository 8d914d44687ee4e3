"""Who goes on foot or by bicycle: along the pavements, over the crossings, alone, in pairs and in groups; who sits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from training.world.city.bodies import draw_size
from training.world.city.parking import still_beside
from training.world.clutter import Bench
from training.world.paths import Motion, Path, SpeedProfile, standing
from training.world.placing import Scene
from training.world.roads import LANE_M, Road

SLENDER_M = 0.66  # as wide as one may be who walks shoulder to shoulder
GROUPS = {"alone": 0.52, "pair": 0.28, "file": 0.08, "group": 0.12}


def _abreast(scene: Scene, count: int) -> list[tuple[float, NDArray[np.float64]]]:
    """Who walks next to each other: (m to the left of the first, size) of each, shoulders 2 to 15 cm apart."""
    people: list[tuple[float, NDArray[np.float64]]] = []
    left = 0.0
    for _ in range(count):
        size = draw_size("pedestrian", False, scene.rng, "adult" if scene.chance(0.85) else "child")
        size[1] = min(size[1], SLENDER_M)
        left += size[1] / 2 if people else 0.0
        people.append((left, size))
        left += size[1] / 2 + scene.rng.uniform(0.02, 0.15)
    return people


def _company(scene: Scene) -> list[tuple[float, float, NDArray[np.float64]]]:
    """People who go together, as (m behind, m to the left of the first, size)."""
    kind = scene.pick(GROUPS)
    rng = scene.rng
    if kind == "pair":
        return [(float(rng.uniform(-0.15, 0.15)), left, size) for left, size in _abreast(scene, 2)]
    if kind == "group":  # a pair, and one or two behind it
        rows = [_abreast(scene, 2), _abreast(scene, int(rng.integers(1, 3)))]
        return [
            (1.0 * k + float(rng.uniform(-0.1, 0.1)), left, size) for k, row in enumerate(rows) for left, size in row
        ]
    count = 1 if kind == "alone" else int(rng.integers(2, 4))
    sizes = [draw_size("pedestrian", False, rng) for _ in range(count)]
    return [(1.05 * k, float(rng.uniform(-0.3, 0.3)), size) for k, size in enumerate(sizes)]


def walkers(scene: Scene, road: Road) -> None:
    """On the pavements: who walks, who stands, in the street's direction or about each other, and cycle stands."""
    rng = scene.rng
    for side in (-1, 1):
        s = rng.uniform(0, 8)
        while s < road.path.length:
            if scene.chance(0.68):
                _strollers(scene, road, s, side)
            else:
                _standers(scene, road, s, side)
            s += rng.uniform(15, 40)
        s = rng.uniform(0, 40)
        while s < road.path.length:  # cycle stands and barriers on the pavement
            kind = rng.random()
            for k in range(rng.integers(2, 5)):
                if kind < 0.6:
                    name = "bicycle" if scene.chance(0.75) else "motorcycle"
                    yaw = np.pi / 2 + rng.normal(0, 0.15)
                    place = still_beside(road.path, s + k * 0.95, side * (road.half_width + 1.3), yaw)
                    scene.add(name, place, gap=0.05)
                elif road.clear(s + k * 2.9, 1.0):
                    d = side * (road.half_width + 0.35)
                    place = still_beside(road.path, s + k * 2.9, d, np.pi / 2 + rng.normal(0, 0.04))
                    scene.add("barrier", place, gap=0.02)
            s += rng.uniform(38, 90)


def _strollers(scene: Scene, road: Road, s: float, side: int) -> None:
    """A company that walks along the pavement, all at one pace."""
    rng = scene.rng
    speed, forward = float(rng.uniform(0.7, 1.9)), scene.chance(0.5)
    first = float(rng.uniform(0.9, 1.7))  # from the kerb, away from the road
    for behind, left, size in _company(scene):
        path = road.path.offset(side * (road.half_width + first + left))
        path = path if forward else path.reversed()
        start = (s if forward else path.length - s) - behind
        scene.add(
            "pedestrian", Motion(path, SpeedProfile.through([0.0, 1.0], [speed, speed]), start), gap=0.01, size=size
        )


def _standers(scene: Scene, road: Road, s: float, side: int) -> None:
    """A company that stands: side by side before the kerb, or turned to each other."""
    rng = scene.rng
    company = _company(scene)
    first = float(rng.uniform(0.7, 1.7))
    if len(company) == 2 and scene.chance(0.5):  # side by side along the kerb, both looking the same way
        facing = rng.choice([-np.pi / 2, np.pi / 2]) + rng.uniform(-0.1, 0.1)
        for behind, left, size in company:
            place = still_beside(road.path, s + left, side * (road.half_width + first + behind), facing)
            scene.add("pedestrian", place, gap=0.01, size=size)
        return
    turn = float(rng.uniform(-np.pi, np.pi))
    round_about = 0.0 if len(company) == 1 else float(rng.uniform(0.5, 0.75)) * (1.3 if len(company) > 2 else 1.0)
    for k, (*_, size) in enumerate(company):
        bearing = turn + 2 * np.pi * k / len(company)
        along, aside = round_about * np.cos(bearing), round_about * np.sin(bearing)
        place = still_beside(
            road.path, s + along, side * (road.half_width + first) + aside, bearing + np.pi + rng.uniform(-0.3, 0.3)
        )
        scene.add("pedestrian", place, gap=0.01, size=size)


def crossers(scene: Scene, road: Road) -> None:
    """People on the crossings, often several at once, and some between the junctions."""
    rng = scene.rng
    places = [(at + way * (half + rng.uniform(1.2, 2.8)), True) for at, half in road.junctions for way in (-1, 1)]
    places += [(s, False) for s in np.arange(20, road.path.length, 45) if road.clear(s, 3)]
    for s, crossing in places:
        for _ in range(rng.integers(1, 4) if crossing else rng.integers(0, 2)):
            _cross(scene, road, s + rng.uniform(-0.5, 0.5))


def _cross(scene: Scene, road: Road, s: float) -> None:
    """A company that waits at the kerb, crosses, and waits on the other side."""
    rng = scene.rng
    side = int(rng.choice([-1, 1]))
    wide = road.half_width + 2.5
    speed = float(rng.uniform(0.9, 1.9))
    begin = rng.uniform(-2 * wide / speed, scene.times[-1])
    # Half a second to set off and to halt.
    knots = np.array([begin, begin + 0.5, begin + 2 * wide / speed, begin + 2 * wide / speed + 0.5])
    profile = SpeedProfile.through(knots, [0.0, speed, speed, 0.0])
    start = float(profile.at(0.0)[0] - profile.s[0])
    for behind, left, size in _company(scene):
        x, y, yaw = (float(v) for v in road.path.beside(s + left, side * (wide + behind)))
        path = Path.from_segments(x, y, yaw - side * np.pi / 2, [(2 * wide, 0.0)])
        scene.add("pedestrian", Motion(path, profile, start), gap=0.01, size=size)


def sitters(scene: Scene, benches: Sequence[Bench]) -> None:
    """One or two on a bench; some benches stay empty."""
    for bench in benches:
        places = [(-0.35, 0.35), (-0.32,), (0.0,), ()][scene.rng.integers(4)]
        for left in places:
            size = draw_size("pedestrian", False, scene.rng, "sitting")
            ahead = size[0] / 2 - 0.28  # its back at the bench's
            c, s = np.cos(bench.yaw), np.sin(bench.yaw)
            place = standing(bench.x + c * ahead - s * left, bench.y + s * ahead + c * left, bench.yaw)
            scene.add("pedestrian", place, gap=0.01, size=size)


def cyclists(scene: Scene, road: Road) -> None:
    """At the right edge of the road, one behind another."""
    rng = scene.rng
    for forward in (True, False):
        lane = road.path if forward else road.path.reversed()
        lane = lane.offset(-(road.lanes * LANE_M - 0.42))
        s = rng.uniform(0, 20)
        while s < lane.length:
            speed = rng.uniform(2.5, 6.0)
            name = "bicycle" if scene.chance(0.85) else "motorcycle"
            scene.add(name, Motion(lane, SpeedProfile.through([0.0, 1.0], [speed, speed]), s), rider=True, gap=0.1)
            s += rng.uniform(22, 60)
