"""Who is in the town, one after another: each is placed where and when those before leave room."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.world.actors import Actor
from training.world.city.bodies import draw_size
from training.world.city.junctions import junction_traffic, tow
from training.world.city.parking import fill_yard, park_along, work_zone
from training.world.city.walking import crossers, cyclists, sitters, walkers
from training.world.clutter import Bench
from training.world.ground import Yard
from training.world.paths import Motion, Path, SpeedProfile
from training.world.placing import Scene
from training.world.roads import BEHIND_M, CROSSING_M, Layout, Road, Wait

DRIVING = {"car": 0.56, "truck": 0.16, "bus": 0.14, "motorcycle": 0.14}


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
        motion = Motion(lane, profile, s + size[0] / 2)
        if scene.add(name, motion, rider=rider, gap=0.3, size=size):
            s += size[0]
            if name == "truck" and scene.chance(0.7):
                tow(scene, motion, size[0])
            s += rng.uniform(*gap)
        else:  # somebody crosses here: the next gap is a little farther on
            s += rng.uniform(2.0, 5.0)


def _steady(scene: Scene, low: float, high: float) -> SpeedProfile:
    t = np.arange(-4.0, scene.times[-1] + 8.0, 4.0)
    v = np.clip(scene.rng.uniform(low, high) + scene.rng.uniform(-2, 2, len(t)), 1.0, None)
    return SpeedProfile.through(t, v)


STOPPED = SpeedProfile.through([0.0, 1.0], [0.0, 0.0])


def _beside_the_ego(scene: Scene, layout: Layout) -> None:
    """Who drives in the ego's lane, before and behind it: with the ego's own speeds, but on past its red light."""
    rng, ego = scene.rng, layout.ego
    ahead = ego.profile if layout.wait is None else _steady(scene, 5, 11)
    _lane_traffic(scene, ego.path, ahead, BEHIND_M + 9 + rng.uniform(0, 14), BEHIND_M + 110, (11, 45), DRIVING)
    gaps = (9, 35) if layout.wait is None else (2.5, 14)
    _lane_traffic(scene, ego.path, ego.profile, BEHIND_M - 75, BEHIND_M - 14, gaps, DRIVING)


def _halting(scene: Scene, wait: Wait) -> SpeedProfile:
    """Comes to a stop about when the ego does and sets off again about when it does."""
    rng = scene.rng
    before, after = float(rng.uniform(5, 11)), float(rng.uniform(6, 10))
    begin, end = wait.begin_s + rng.uniform(-0.5, 1.0), wait.end_s + rng.uniform(0.0, 0.6)
    knots = [begin - before / 2.2, begin, end, end + after / 1.7]
    return SpeedProfile.through(knots, [before, 0.0, 0.0, after])


def _main_traffic(scene: Scene, layout: Layout) -> None:
    """Who drives on the main road in the other lanes; where the ego waits, those beside and opposite wait too."""
    road, ego, wait = layout.roads[0], layout.ego, layout.wait
    travelled = float(ego.profile.at(scene.times[-1])[0])
    for k in range(road.lanes):
        lane = road.lane(k, False)
        if wait is not None:
            half = next(half for at, half in road.junctions if at == wait.at)
            profile = _halting(scene, wait)
            line = lane.length - wait.at - half - CROSSING_M - 1.0
            last = line - float(profile.at(wait.begin_s + 1.0)[0])  # of the front of the first
            _lane_traffic(scene, lane, profile, last - 90, last - 6, (2.5, 16), DRIVING)
        else:
            profile = _steady(scene, 4, 12) if scene.chance(0.75) else STOPPED
            gone = float(profile.at(scene.times[-1])[0])
            first = lane.length - BEHIND_M - travelled - 80 - gone
            _lane_traffic(scene, lane, profile, first, lane.length - 40, (8, 34), DRIVING)
        if k != layout.ego_road_lane:
            beside = _steady(scene, 4, 11) if wait is None else ego.profile
            last = BEHIND_M + travelled + 80 if wait is None else BEHIND_M - 4
            _lane_traffic(scene, road.lane(k, True), beside, BEHIND_M - 60, last, (8, 40), DRIVING)


def _behind_the_junction(scene: Scene, road: Road) -> None:
    """Who has left the junction on the crossing road."""
    (at, half), *_ = road.junctions
    for forward in (True, False):
        away = (at if forward else road.path.length - at) + half + 15
        for k in range(road.lanes):
            lane = road.lane(k, forward)
            _lane_traffic(scene, lane, _steady(scene, 3, 9), away, away + 100, (14, 50), DRIVING)


def populate(
    layout: Layout, yards: list[Yard], benches: Sequence[Bench], rng: np.random.Generator, duration_s: float
) -> list[Actor]:
    """All actors of a drive; nobody overlaps anybody, nor the ego, at any time of the drive."""
    scene = Scene.around(layout.ego, duration_s, rng, draw_size)
    sitters(scene, benches)
    # Who crosses comes before who drives along, for it needs the rarer gaps.
    for (at, _), road in zip(layout.roads[0].junctions, layout.roads[1:]):
        junction_traffic(scene, layout, road, at)
    _beside_the_ego(scene, layout)
    _main_traffic(scene, layout)
    for road in layout.roads[1:]:
        _behind_the_junction(scene, road)
    for road in layout.roads:
        s = rng.uniform(10, 40)
        while s < road.path.length - 30:
            if road.clear(s, 7) and road.clear(s + 24, 2):
                work_zone(scene, road, s, int(rng.choice([-1, 1])))
            s += rng.uniform(30, 58)
        cyclists(scene, road)
        crossers(scene, road)
        park_along(scene, road)
        walkers(scene, road)
    for yard in yards:
        fill_yard(scene, yard)
    return scene.actors
