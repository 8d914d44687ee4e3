"""Turning and crossing traffic against finite differences, its statistics against a scene made by hand, and bodies."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("trimesh", reason="the synthetic world needs trimesh and embreex")

from training.world.actors import Actor, ActorState
from training.world.city.bodies import BODIES, draw_size, kind_of, sits
from training.world.city.junctions import course, passing, setting_off
from training.world.ground import Ground
from training.world.mesh import join
from training.world.paths import Motion, Path, SpeedProfile, standing
from training.world.placing import EGO_CENTRE_AHEAD, EGO_LENGTH, EGO_WIDTH, boxes_overlap
from training.world.raycast import body_mesh
from training.world.rig import NS
from training.world.styles import CITY
from training.world.town import Town
from training.world.traffic_statistics import (
    TURN_RADIUS_M,
    VEHICLES,
    Sightings,
    across_or_turning,
    axis_passes,
    boxes_per_frame,
    direction_shares,
    directions,
    moving_share,
    neighbour_distance,
    quantiles,
    sightings,
    together,
)
from training.world.world import Conditions, World, make_world

SEEDS = (10, 11, 12, 13)
HALF_SECONDS = range(0, 10 * NS, NS // 2)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [make_world(seed, 10.0, style=CITY) for seed in SEEDS]


@pytest.fixture(scope="module")
def seen(worlds: list[World]) -> Sightings:
    return together([sightings(world, HALF_SECONDS) for world in worlds])


def line(x: float, y: float, heading: float, length: float) -> Path:
    return Path.from_segments(x, y, heading, [(length, 0.0)])


def test_a_part_of_a_path_is_that_part() -> None:
    path = Path.from_segments(1, 2, 0.3, [(10.0, 0.0), (20.0, 0.05), (15.0, -0.1)])
    for begin, end in ((4.0, 41.0), (12.0, 20.0), (-3.0, 50.0)):
        x, y, heading = (float(v) for v in path.at(begin))
        part = Path.from_segments(x, y, heading, path.part(begin, end))
        s = np.linspace(0, end - begin, 40)
        np.testing.assert_allclose(part.at(s), path.at(begin + s), atol=1e-9)
        assert np.isclose(part.length, end - begin)


@pytest.mark.parametrize("turn_deg", [90, -90, 78, -102])
def test_a_turn_joins_two_lanes_by_an_arc_that_touches_both(turn_deg: float) -> None:
    into, heading = line(-40, 3, 0.2, 80), 0.2 + np.deg2rad(turn_deg)
    out = line(5 - 40 * np.cos(heading), 4 - 40 * np.sin(heading), heading, 80)
    way = course(into, 42.0, out, 38.0, 9.0)
    assert np.isclose(way.end - way.begin, 9.0 * abs(np.deg2rad(turn_deg)))
    s = np.linspace(0, way.path.length, 4001)
    x, y, yaw = way.path.at(s)
    # The derivative of the place is the heading everywhere, the joints included: neither jumps.
    np.testing.assert_allclose(np.diff(x) / np.diff(s), np.cos(yaw[:-1]), atol=5e-3)
    np.testing.assert_allclose(np.diff(y) / np.diff(s), np.sin(yaw[:-1]), atol=5e-3)
    before, behind = s < way.begin, s > way.end
    for lane, part in ((into, before), (out, behind)):
        c, si = np.cos(lane.heading[0]), np.sin(lane.heading[0])
        off_the_lane = -si * (x[part] - lane.x[0]) + c * (y[part] - lane.y[0])
        assert part.sum() > 50 and np.abs(off_the_lane).max() < 1e-9
    ahead = (x[behind] - out.x[0]) * np.cos(heading) + (y[behind] - out.y[0]) * np.sin(heading)
    assert np.all(np.diff(ahead) > 0), "drives on in the direction of the lane it turned into"


def test_who_turns_is_where_and_as_fast_as_asked_for() -> None:
    way = course(line(-60, 0, 0, 120), 60.0, line(0, -60, np.pi / 2, 120), 60.0, 9.0)
    motion = passing(way, 3.0, 9.0, 5.0, 8.0)
    *_, speed, station = motion.at(3.0)
    assert np.isclose(station, (way.begin + way.end) / 2) and np.isclose(speed, 5.0)
    t = np.linspace(-6, 14, 2001)
    *_, v, s = motion.at(t)
    turning = (s > way.begin) & (s < way.end)
    assert turning.sum() > 100 and np.allclose(v[turning], 5.0)
    assert np.isclose(v[0], 9.0) and np.isclose(v[-1], 8.0)
    np.testing.assert_allclose(np.diff(s) / np.diff(t), (v[1:] + v[:-1]) / 2, atol=0.03)
    waiting = setting_off(way, way.begin - 8.0, 2.0, 5.0, 8.0)
    *_, v, s = waiting.at(t)
    assert np.all(v[t < 2] == 0) and np.allclose(s[t < 2], way.begin - 8.0)
    assert np.isclose(v[-1], 8.0) and np.all(v[(s > way.begin) & (s < way.end)] <= 5.0 + 1e-9)


def test_nobody_overlaps_anybody_while_they_turn_and_cross(worlds: list[World]) -> None:
    turned = 0
    for world in worlds:
        for stamp in range(0, 10 * NS, NS // 2):
            states, ego = world.actor_states(stamp), world.ego_pose(stamp)
            centre = ego[:2, 3] + EGO_CENTRE_AHEAD * ego[:2, 0]
            rows = [(*s.center[:2], s.yaw, *s.size_lwh[:2]) for s in states]
            rows.append((*centre, np.arctan2(ego[1, 0], ego[0, 0]), EGO_LENGTH, EGO_WIDTH))
            r = np.array(rows)
            i, j = np.triu_indices(len(r), 1)
            hit = boxes_overlap(r[i].T, r[j].T)
            names = [state.name for state in states] + ["ego"]
            assert not hit.any(), (world.seed, stamp, [(names[a], names[b]) for a, b in zip(i[hit], j[hit])])
            turned += sum(_curvature(world, state, stamp) > 1 / TURN_RADIUS_M for state in states)
    assert turned > 15, "otherwise this says nothing of those who turn"


def _curvature(world: World, state: ActorState, stamp: int) -> float:
    motion = world.actors[state.track_id].motion
    moves = bool(np.linalg.norm(state.velocity) > 1)
    return abs(float(motion.path.curvature_at(motion.at(stamp / NS)[4]))) if moves else 0.0


def test_velocity_is_the_derivative_of_position_of_those_who_turn(worlds: list[World]) -> None:
    h, checked = 1_000_000, 0
    for world in worlds:
        for stamp in range(NS // 3, 10 * NS, NS):
            trio = zip(*(world.actor_states(at) for at in (stamp - h, stamp, stamp + h)))
            for before, now, after in trio:
                if _curvature(world, now, stamp) > 1 / TURN_RADIUS_M:
                    slope = (after.center - before.center) / (2e-9 * h)
                    np.testing.assert_allclose(slope, now.velocity, atol=0.02)
                    yaw_rate = np.arctan2(*np.sin([after.yaw - before.yaw, np.pi / 2 - (after.yaw - before.yaw)]))
                    curvature = _curvature(world, now, stamp)
                    assert np.isclose(abs(yaw_rate) / (2e-9 * h), curvature * np.linalg.norm(now.velocity), atol=0.02)
                    checked += 1
    assert checked > 5


def test_a_fifth_of_the_moving_vehicles_and_more_cross_or_turn(seen: Sightings) -> None:
    vehicles = seen.of(VEHICLES)
    assert across_or_turning(vehicles) > 0.25
    shares = direction_shares(seen.of(["car", "truck", "bus"]))
    assert shares["turning"] > 0.04 and shares["across"] > 0.15
    assert shares["along"] > 0.1 and shares["oncoming"] > 0.1
    quick = vehicles.where((directions(vehicles) == "turning") & ~np.isin(vehicles.name, ["bicycle"]))
    assert np.median(quick.speed) < 7.0


def test_vehicles_pass_ahead_of_and_behind_the_ego(worlds: list[World]) -> None:
    passes = np.array([axis_passes(sightings(world, HALF_SECONDS)) for world in worlds])
    assert passes.sum() >= 4 and (passes.sum(axis=0) > 0).all(), passes


def test_some_people_walk_and_stand_shoulder_to_shoulder(worlds: list[World], seen: Sightings) -> None:
    near = neighbour_distance(seen)
    assert np.mean((near > 0.5) & (near < 0.8)) > 0.1
    for moves in (True, False):
        assert neighbour_distance(seen.where((seen.speed > 0.2) == moves)).min() < 0.75
    states = [state for world in worlds for state in world.actor_states(NS)]
    assert "pedestrian.sitting_lying_down" in {state.attribute for state in states}


def test_the_same_seed_gives_the_same_actors() -> None:
    one, other = make_world(17, 4.0, style=CITY), make_world(17, 4.0, style=CITY)
    assert len(one.actors) == len(other.actors)
    for a, b in zip(one.actors, other.actors):
        assert (a.name, a.style, a.rider, a.parked) == (b.name, b.style, b.rider, b.parked)
        np.testing.assert_array_equal(a.size_lwh, b.size_lwh)
        for t in (0.0, 3.3):
            np.testing.assert_array_equal(a.motion.at(t), b.motion.at(t))


# --- statistics, on a scene made by hand ---


def scene() -> World:
    """An ego that drives along +y at 5 m/s; about it one of each kind of travel, two people side by side, one alone."""
    up = np.pi / 2
    steady = SpeedProfile.through([0.0, 1.0], [5.0, 5.0])
    arc = Path.from_segments(-20.0, 15.0, up, [(40.0, 1 / 10)])
    placed = [
        ("car", Motion(line(0, 20, up, 100), steady)),  # along, 20 m ahead for good
        ("car", Motion(line(-4, 40, -up, 100), steady)),  # oncoming, passes at the left
        ("truck", Motion(line(6, 30, np.pi, 100), SpeedProfile.through([0.0, 1.0], [4.0, 4.0]))),  # from right to left
        ("motorcycle", Motion(arc, steady)),
        ("bicycle", standing(10.0, 0.0, up)),
        ("pedestrian", standing(5.0, 5.0, 0.0)),
        ("pedestrian", standing(5.0, 5.6, 0.0)),
        ("pedestrian", standing(5.0, 9.6, 0.0)),
        ("bus", standing(0.0, 100.0, up)),  # out of reach
    ]
    size = np.array([1.0, 0.5, 1.0])
    actors = [Actor(i, name, size, m, 0, still=not m.profile.v.any()) for i, (name, m) in enumerate(placed)]
    town = Town(Ground([np.zeros((8, 8, 3), np.uint8)], (0.0, 0.0)), join([]), np.zeros((0, 3)), [])
    return World(0, 4.0, Conditions("day", 0.0, 0.5), Motion(line(0, 0, up, 200), steady), actors, town)


def test_statistics_of_a_scene_made_by_hand() -> None:
    found = sightings(scene(), [0, 2 * NS], reach_m=50.0)
    assert found.frames == 2 and len(found.name) == 16
    first = found.where(found.frame == 0)
    np.testing.assert_allclose(first.xy[:4], [[20, 0], [40, 4], [30, -6], [15, 20]], atol=1e-9)
    np.testing.assert_allclose(np.abs(first.heading[:5]), [0, np.pi, np.pi / 2, 0, 0], atol=1e-9)
    np.testing.assert_allclose(first.distance[:4], [20, np.hypot(40, 4), np.hypot(30, 6), 25], atol=1e-9)
    np.testing.assert_array_equal(directions(first)[:4], ["along", "oncoming", "across", "turning"])
    assert direction_shares(found.of(VEHICLES)) == dict(along=0.25, oncoming=0.25, across=0.25, turning=0.25)
    assert across_or_turning(found.of(["car"])) == 0.0 and across_or_turning(found.of(["truck"])) == 1.0
    assert np.isnan(across_or_turning(found.of(["pedestrian"]))), "nobody moves"
    assert boxes_per_frame(found) == {"car": 2, "truck": 1, "motorcycle": 1, "bicycle": 1, "pedestrian": 3}
    assert moving_share(found) == {"car": 1, "truck": 1, "motorcycle": 1, "bicycle": 0, "pedestrian": 0}
    np.testing.assert_allclose(quantiles(found, lambda s: s.speed)["truck"], [4, 4, 4])
    np.testing.assert_allclose(quantiles(first, lambda s: s.distance, (0.0, 1.0))["car"], [20, np.hypot(40, 4)])
    np.testing.assert_allclose(neighbour_distance(found), [0.6, 0.6, 4.0] * 2)
    assert axis_passes(found) == (1, 0), "the lorry, from y = -6 to y = 2, 20 m ahead"
    twice = together([found, found])
    assert twice.frames == 4 and boxes_per_frame(twice) == boxes_per_frame(found)
    np.testing.assert_allclose(neighbour_distance(twice), [0.6, 0.6, 4.0] * 4)
    assert axis_passes(twice) == (2, 0), "the same track in another drive is another vehicle"


# --- bodies ---


@pytest.mark.parametrize("name", BODIES)
def test_every_body_fills_its_box_and_stays_in_it(name: str) -> None:
    rng = np.random.default_rng(4)
    for body in BODIES[name]:
        for rider in (False, True) if name in ("bicycle", "motorcycle") else (False,):
            for _ in range(4):
                size, style = draw_size(name, rider, rng, body.kind), int(rng.integers(1 << 31))
                for phase in (0.0, 0.3):
                    mesh = body_mesh(Actor(7, name, size, standing(0, 0, 0), style, rider), phase, busy=True)
                    low, high = mesh.triangles.min((0, 1)), mesh.triangles.max((0, 1))
                    assert (low >= -size / 2 - 1e-3).all() and (high <= size / 2 + 1e-3).all(), (body.kind, size)
                    # A walker's arms leave room beside it, a boom is narrower than its tracks.
                    assert (high - low > size * (0.35, 0.6, 0.93)).all(), (body.kind, (high - low) / size)
                    assert len(mesh) < 700 and (mesh.owner == 7).all() and np.isfinite(mesh.triangles).all()
                    assert (mesh.colour >= 0).all() and (mesh.colour <= 1.3).all()


def test_a_size_tells_the_kind_of_body() -> None:
    rng = np.random.default_rng(1)
    for name in ("car", "pedestrian", "bus", "traffic_cone"):
        for body in BODIES[name]:
            for _ in range(30):
                size = draw_size(name, False, rng, body.kind)
                kind = kind_of(name, tuple(size), rng)
                assert next(b for b in BODIES[name] if b.kind == kind).fits(size)
                assert sits(size) == (body.kind == "sitting")
    kinds = {kind_of("car", tuple(draw_size("car", False, rng)), rng) for _ in range(200)}
    assert kinds == {body.kind for body in BODIES["car"]}


def test_styles_differ_in_colour_and_shape() -> None:
    rng = np.random.default_rng(2)
    size = draw_size("car", False, rng, "sedan")
    meshes = [body_mesh(Actor(0, "car", size, standing(0, 0, 0), style), 0.0, busy=True) for style in range(40)]
    paints = {tuple(np.round(mesh.colour[0], 2)) for mesh in meshes}
    assert len(paints) > 15
