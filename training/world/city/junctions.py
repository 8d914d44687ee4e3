"""Traffic at a junction: vehicles that turn from road to road, set off from a stop line, or pass across."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from training.world.city.bodies import draw_size
from training.world.paths import Motion, Path, SpeedProfile
from training.world.placing import Scene
from training.world.roads import CROSSING_M, Layout, Road

Manoeuvre = Literal["straight", "left", "right"]

BRAKING_MPS2, PULLING_MPS2 = 2.2, 1.7
SIDEWAYS_MPS2 = 3.0  # the most that a driver takes in a turn
LONGEST_TURNING_M = 8.6  # a rigid box that is longer would sweep over the kerb
IN_SIGHT_M = 50.0
WAITING = SpeedProfile.through([0.0, 1.0], [0.0, 0.0])
CLEARANCE_M = 1.6  # added to a vehicle's length and width when it is placed: nobody passes closer
FLOW = {"car": 0.56, "truck": 0.18, "bus": 0.13, "motorcycle": 0.13}


@dataclass(frozen=True)
class Course:
    """A way through a junction: where it begins and ends to curve (m along `path`; its middle when straight), and its
    radius, inf when straight."""

    path: Path
    begin: float
    end: float
    radius: float


def course(into: Path, near_in: float, out: Path, near_out: float, radius: float) -> Course:
    """From the lane `into` by an arc into the lane `out`, both straight about stations `near_in` and `near_out`.

    The arc touches both lanes, so position and heading are continuous: a fillet of two lines that meet at an angle.
    """
    x, y, heading = (float(v) for v in into.at(near_in))
    ox, oy, out_heading = (float(v) for v in out.at(near_out))
    turn = (out_heading - heading + np.pi) % (2 * np.pi) - np.pi
    # Where the lines meet: (x, y) + a (cos, sin)(heading) = (ox, oy) + b (cos, sin)(out_heading).
    c, s = np.cos(heading), np.sin(heading)
    oc, os = np.cos(out_heading), np.sin(out_heading)
    a, b = np.linalg.solve(np.array([[c, -oc], [s, -os]]), np.array([ox - x, oy - y]))
    tangent = radius * np.tan(abs(turn) / 2)
    begin, leave = near_in + float(a) - tangent, near_out + float(b) + tangent
    arc = (radius * abs(turn), np.sign(turn) / radius)
    x, y, heading = (float(v) for v in into.at(0.0))
    path = Path.from_segments(x, y, heading, [*into.part(0.0, begin), arc, *out.part(leave, out.length)])
    return Course(path, begin, begin + arc[0], radius)


def passing(way: Course, when: float, before: float, turning: float, after: float) -> Motion:
    """In the middle of the course at time `when` (s), with speeds (m/s) before, in and behind the turn."""
    half = (way.end - way.begin) / 2 / turning
    knots = [
        when - half - abs(before - turning) / BRAKING_MPS2 - 0.1,
        when - half,
        when + half,
        when + half + abs(after - turning) / PULLING_MPS2 + 0.1,
    ]
    profile = SpeedProfile.through(knots, [before, turning, turning, after])
    return Motion(way.path, profile, (way.begin + way.end) / 2 - float(profile.at(when)[0]))


def setting_off(way: Course, stands_at: float, when: float, turning: float, after: float) -> Motion:
    """Stands at station `stands_at` until `when` (s), then drives through the course."""
    reach = turning / PULLING_MPS2
    through = max(0.1, (way.end - stands_at - turning * reach / 2) / turning)
    knots = when + np.array([0.0, reach, reach + through, reach + through + abs(after - turning) / PULLING_MPS2 + 0.1])
    profile = SpeedProfile.through(knots, [0.0, turning, turning, after])
    return Motion(way.path, profile, stands_at - float(profile.s[0]))


@dataclass(frozen=True)
class Approach:
    """One way to come to a junction: the road, its direction, and the road that crosses; where they meet (m)."""

    road: Road
    forward: bool
    at: float
    other: Road
    other_at: float

    def near(self, lane: Path) -> float:
        return self.at if self.forward else lane.length - self.at

    def course(self, k: int, manoeuvre: Manoeuvre, rng: np.random.Generator) -> Course:
        """From lane k. Right from the outer lane into the outer, left from the inner into the inner."""
        lane = self.road.lane(k, self.forward)
        near = self.near(lane)
        if manoeuvre == "straight":
            return Course(lane, near, near, np.inf)
        left = manoeuvre == "left"
        # Of two roads that cross, one runs to the left of the other, so that the other runs to its right.
        crosses_leftwards = self.other.path.at(self.other_at)[2] - self.road.path.at(self.at)[2]
        leftwards = bool(np.sin(crosses_leftwards) > 0)
        out_forward = leftwards == (self.forward == left)
        out = self.other.lane(0 if left else self.other.lanes - 1, out_forward)
        near_out = self.other_at if out_forward else out.length - self.other_at
        radius = rng.uniform(10.0, 13.5) if left else rng.uniform(7.5, 9.5)
        return course(lane, near, out, near_out, radius)

    def stop_line(self, lane: Path) -> float:
        """Station of the stop line on one of its lanes."""
        return self.near(lane) - self.other.half_width - CROSSING_M


def _manoeuvres(k: int, lanes: int) -> list[Manoeuvre]:
    """What may be done from lane k, likelier ones more often."""
    found: list[Manoeuvre] = ["straight", "straight"]
    if k == 0:
        found.append("left")
    if k == lanes - 1:
        found.append("right")
    return found


def _turning_speed(way: Course, rng: np.random.Generator) -> float:
    return float(min(rng.uniform(4.0, 7.0), np.sqrt(SIDEWAYS_MPS2 * way.radius)))


def _vehicle(scene: Scene, turns: bool) -> tuple[str, NDArray[np.float64]]:
    """Class and size of one that can do this."""
    while True:
        name = scene.pick(FLOW)
        size = draw_size(name, name == "motorcycle", scene.rng)
        if not turns or size[0] < LONGEST_TURNING_M:
            return name, size


def _flow(scene: Scene, approach: Approach, k: int, times: NDArray[np.float64], only_turning: bool) -> None:
    """One vehicle after another through the junction; each drops in where there is a gap."""
    rng = scene.rng
    speed = float(rng.uniform(5.0, 10.5))
    for when in times:
        choices = [m for m in _manoeuvres(k, approach.road.lanes) if not (only_turning and m == "straight")]
        manoeuvre = choices[rng.integers(len(choices))]
        way = approach.course(k, manoeuvre, rng)
        name, size = _vehicle(scene, manoeuvre != "straight")
        turning = speed if manoeuvre == "straight" else _turning_speed(way, rng)
        after = speed if manoeuvre == "straight" else float(rng.uniform(6.0, 10.0))
        for _ in range(3):
            motion = passing(way, float(when), speed, turning, after)
            if scene.add(name, motion, rider=name == "motorcycle", gap=CLEARANCE_M, size=size):
                if name == "truck" and manoeuvre == "straight" and scene.chance(0.7):
                    tow(scene, motion, size[0])
                break
            when = when + rng.uniform(0.4, 1.0)


def _queue(scene: Scene, approach: Approach, k: int, window: tuple[float, float]) -> None:
    """Vehicles behind the stop line that set off one after another when they find a gap, or stay where they are."""
    rng = scene.rng
    lane = approach.road.lane(k, approach.forward)
    s = approach.stop_line(lane) - 0.5 - rng.uniform(0.0, 0.8)
    goes = float(rng.uniform(*window))
    waits = False
    for _ in range(rng.integers(1, 5)):
        choices = _manoeuvres(k, approach.road.lanes)
        manoeuvre = choices[rng.integers(len(choices))]
        way = approach.course(k, manoeuvre, rng)
        name, size = _vehicle(scene, manoeuvre != "straight")
        rider = name == "motorcycle"
        turning = 8.0 if manoeuvre == "straight" else _turning_speed(way, rng)
        placed = False
        for _ in range(0 if waits else 4):
            motion = setting_off(way, s - size[0] / 2, goes, turning, max(turning, float(rng.uniform(6.0, 10.0))))
            placed = scene.add(name, motion, rider=rider, gap=CLEARANCE_M, size=size)
            if placed:
                break
            goes += float(rng.uniform(0.7, 1.8))
        if not placed:
            waits = True
            scene.add(name, Motion(lane, WAITING, s - size[0] / 2), rider=rider, size=size)
        s -= size[0] + rng.uniform(2.0, 3.2)
        goes += float(rng.uniform(0.9, 1.6))


def _riders_across(scene: Scene, approach: Approach, window: tuple[float, float]) -> None:
    """Cyclists who ride over the crossing beside the pedestrians' one, some in pairs."""
    rng = scene.rng
    wide = approach.road.half_width + 6.0
    for way in (-1, 1):
        if not scene.chance(0.2):
            continue
        side = rng.choice([-1, 1])
        s = approach.at + way * (approach.other.half_width + rng.uniform(-0.6, 0.2))
        x, y, yaw = (float(v) for v in approach.road.path.beside(s, side * wide))
        path = Path.from_segments(x, y, yaw - side * np.pi / 2, [(2 * wide, 0.0)])
        speed = float(rng.uniform(2.5, 5.5))
        when = rng.uniform(*window)
        for k in range(int(rng.integers(1, 3))):
            profile = SpeedProfile.through([0.0, 1.0], [speed, speed])
            start = wide - speed * when - 2.6 * k
            scene.add("bicycle", Motion(path, profile, float(start)), rider=True, gap=0.3)


def junction_traffic(scene: Scene, layout: Layout, road: Road, at: float) -> None:
    """All that turns or crosses where `road` meets the main one at its station `at`, mostly while the ego is near."""
    rng = scene.rng
    main = layout.roads[0]
    (own_at, _), *_ = road.junctions
    x, y, _ = main.path.at(at)
    near = scene.times[np.hypot(scene.route[:, 0] - x, scene.route[:, 1] - y) < IN_SIGHT_M]
    window = (float(near[0]), float(near[-1])) if len(near) else (0.0, float(scene.times[-1]))
    for forward in (True, False):
        cross = Approach(road, forward, own_at, main, at)
        along = Approach(main, forward, at, road, own_at)
        for k in range(road.lanes):
            kind = rng.random()
            if kind < 0.45:
                _queue(scene, cross, k, window)
            elif kind < 0.68:
                gaps = rng.uniform(3.5, 10.0, 10)
                times = window[0] - 3.0 + np.cumsum(gaps)
                _flow(scene, cross, k, times[times < window[1] + 3.0], False)
        for k in {0, main.lanes - 1}:
            turning = np.sort(rng.uniform(*window, int(rng.integers(1, 4))))
            _flow(scene, along, k, turning, True)
        _riders_across(scene, along, window)


def tow(scene: Scene, lorry: Motion, length: float) -> None:
    """A trailer behind a lorry of this length, as far along the lorry's own path as its drawbar lets it."""
    size = draw_size("trailer", False, scene.rng)
    behind = Motion(lorry.path, lorry.profile, lorry.s0 - (length + size[0]) / 2 - 0.7)
    scene.add("trailer", behind, gap=0.1, size=size)
