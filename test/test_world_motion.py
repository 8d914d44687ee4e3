"""The closed-form motion, the rig and the world's state against finite differences and slow references."""

from __future__ import annotations

import numpy as np
import pytest

from training.tables.vocabulary import CATEGORY_OF
from training.world.paths import Motion, MotionTable, Path, SpeedProfile, standing
from training.world.placing import EGO_CENTRE_AHEAD, EGO_LENGTH, EGO_WIDTH, boxes_overlap
from training.world.rig import NS, RIG, stamps
from training.world.roads import Layout, plan
from training.world.world import World, make_world

SEEDS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def worlds() -> list[World]:
    return [make_world(seed, 8.0) for seed in SEEDS]


def walk(segments: list[tuple[float, float]], length: float, step: float = 1e-3) -> tuple[float, float, float]:
    """Where a path leads, by small steps."""
    x = y = heading = s = 0.0
    ends = np.cumsum([length for length, _ in segments])
    while s < length - step / 2:
        curvature = segments[min(int(np.searchsorted(ends, s + step / 2)), len(segments) - 1)][1]
        x += step * np.cos(heading + curvature * step / 2)
        y += step * np.sin(heading + curvature * step / 2)
        heading += curvature * step
        s += step
    return x, y, heading


def test_path_is_where_small_steps_lead() -> None:
    segments = [(10.0, 0.0), (8.0, 0.1), (5.0, -0.2), (4.0, 0.0)]
    path = Path.from_segments(0, 0, 0, segments)
    for s in (3.0, 12.0, 21.5, 26.0, 30.0):  # the last lies beyond the end
        assert np.allclose(path.at(s), walk(segments, s), atol=1e-4)


def test_offset_and_reversed_paths() -> None:
    path = Path.from_segments(3, -2, 0.7, [(10.0, 0.0), (20.0, 0.03), (20.0, -0.05)])
    beside = path.offset(2.0)
    s = np.linspace(0, beside.length, 50)
    x, y, _ = beside.at(s)
    dense = np.stack(path.at(np.linspace(0, path.length, 20001))[:2], axis=-1)
    nearest = [np.hypot(*(dense - p).T).min() for p in np.stack([x, y], axis=-1)]
    assert np.allclose(nearest, 2.0, atol=1e-4)
    back = path.reversed()
    xb, yb, hb = back.at(path.length - 13.0)
    xf, yf, hf = path.at(13.0)
    assert np.allclose([xb, yb], [xf, yf])
    assert np.isclose(np.cos(hb - hf), -1.0)


def test_speed_profile_integrates_its_speed() -> None:
    profile = SpeedProfile.through([-1.0, 2.0, 3.0, 6.0], [4.0, 10.0, 10.0, 0.0])
    t = np.linspace(-2, 8, 100001)
    s, v = profile.at(t)
    integral = np.concatenate([[0], np.cumsum((v[1:] + v[:-1]) / 2 * np.diff(t))])
    assert np.allclose(s - s[0], integral, atol=1e-6)
    assert np.isclose(profile.at(0.0)[0], 0.0)


def test_motion_table_agrees_with_each_motion() -> None:
    rng = np.random.default_rng(5)
    motions = [standing(1.0, 2.0, 0.5)]
    for n in (1, 2, 5):
        segments = [(rng.uniform(5, 20), rng.uniform(-0.05, 0.05)) for _ in range(n)]
        path = Path.from_segments(rng.uniform(-9, 9), rng.uniform(-9, 9), rng.uniform(-9, 9), segments)
        knots = np.sort(rng.uniform(-3, 12, n + 1))
        motions.append(Motion(path, SpeedProfile.through(knots, rng.uniform(0, 9, n + 1)), rng.uniform(-5, 30)))
    table = MotionTable.of(motions)
    for t in (-6.0, -0.5, 0.0, 1.7, 9.3, 20.0):
        expected = np.array([[float(value) for value in motion.at(t)] for motion in motions]).T
        assert np.allclose(table.at(t), expected, atol=1e-9)


def test_velocity_is_the_derivative_of_position(worlds: list[World]) -> None:
    h = 1_000_000
    checked = 0
    for world in worlds:
        for stamp in (1_234_567_890, 5_432_109_876):
            trio = zip(world.actor_states(stamp - h), world.actor_states(stamp), world.actor_states(stamp + h))
            for before, now, after in trio:
                slope = (after.center - before.center) / (2e-9 * h)
                assert np.allclose(slope, now.velocity, atol=0.02), (now.name, slope, now.velocity)
                checked += int(np.linalg.norm(now.velocity) > 0.5)
    assert checked > 50


def test_ego_twist_is_the_derivative_of_its_pose(worlds: list[World]) -> None:
    h = 1_000_000
    for world in worlds:
        for stamp in range(500_000_000, 7_500_000_000, 700_000_000):
            moved = np.linalg.inv(world.ego_pose(stamp - h)) @ world.ego_pose(stamp + h)
            vx, vy, yaw_rate = world.ego_twist(stamp)
            assert np.allclose(moved[:2, 3] / (2e-9 * h), [vx, vy], atol=0.02)
            assert np.isclose(np.arctan2(moved[1, 0], moved[0, 0]) / (2e-9 * h), yaw_rate, atol=0.05)


def test_nobody_overlaps_anybody_nor_the_ego(worlds: list[World]) -> None:
    for world in worlds:
        for stamp in range(0, 8 * NS + 1, 2 * NS):
            states = world.actor_states(stamp)
            ego = world.ego_pose(stamp)
            centre = ego[:2, 3] + EGO_CENTRE_AHEAD * ego[:2, 0]
            rows = [(*s.center[:2], s.yaw, *s.size_lwh[:2]) for s in states]
            rows.append((*centre, np.arctan2(ego[1, 0], ego[0, 0]), EGO_LENGTH, EGO_WIDTH))
            r = np.array(rows)
            i, j = np.triu_indices(len(r), 1)
            hit = boxes_overlap(r[i].T, r[j].T)
            assert not hit.any(), [
                (states[a].name, states[b].name if b < len(states) else "ego") for a, b in zip(i[hit], j[hit])
            ]


def test_box_overlap_against_sampled_points() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(200):
        a, b = (np.array([*rng.uniform(-2, 2, 2), rng.uniform(-4, 4), *rng.uniform(0.5, 3, 2)]) for _ in range(2))
        u, v = np.meshgrid(np.linspace(-0.5, 0.5, 60), np.linspace(-0.5, 0.5, 60))
        px = a[0] + u * a[3] * np.cos(a[2]) - v * a[4] * np.sin(a[2]) - b[0]
        py = a[1] + u * a[3] * np.sin(a[2]) + v * a[4] * np.cos(a[2]) - b[1]
        bx, by = px * np.cos(b[2]) + py * np.sin(b[2]), py * np.cos(b[2]) - px * np.sin(b[2])
        shared = np.mean((np.abs(bx) < b[3] / 2) & (np.abs(by) < b[4] / 2))
        overlap = bool(boxes_overlap(a[:, None], b[:, None])[0])
        seen.add(overlap)
        assert overlap or shared == 0
        assert not overlap or shared > 0 or _nearly_apart(a, b)
    assert seen == {True, False}


def _nearly_apart(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether shrinking both by 10 % parts them: an overlap too thin for the samples."""
    small = np.array([1, 1, 1, 0.9, 0.9])
    return not boxes_overlap((a * small)[:, None], (b * small)[:, None])[0]


def test_all_ten_classes_appear_with_their_attributes(worlds: list[World]) -> None:
    states = [state for world in worlds for state in world.actor_states(3 * NS, 60.0)]
    assert {state.name for state in states} == set(CATEGORY_OF)
    assert {state.attribute for state in states} == {
        "",
        "vehicle.moving",
        "vehicle.stopped",
        "vehicle.parked",
        "cycle.with_rider",
        "cycle.without_rider",
        "pedestrian.moving",
        "pedestrian.standing",
    }
    for state in states:
        assert (state.attribute == "") == (state.name in ("traffic_cone", "barrier"))
        assert np.isclose(state.center[2], state.size_lwh[2] / 2)


def test_stamps_meet_at_the_keyframes() -> None:
    end = 10 * NS
    last_camera, lidar = set(stamps(RIG["CAM_BACK_LEFT"], 0, end)), set(stamps(RIG["LIDAR_TOP"], 0, end))
    assert set(range(0, end, NS // 2)) <= last_camera & lidar
    for mount in RIG.values():
        every = stamps(mount, 0, end)
        assert len(every) in (round(10 * mount.rate_hz), round(10 * mount.rate_hz) - 1, round(10 * mount.rate_hz) + 1)
        assert all(0 <= stamp < end for stamp in every)
        assert np.ptp(np.diff(every)) <= 1
        split = stamps(mount, 0, 3_333_333_333) + stamps(mount, 3_333_333_333, end)
        assert split == every
    with pytest.raises(ValueError, match="swap"):
        stamps(RIG["CAM_FRONT"], NS, 0)


def test_ego_drives_like_a_car() -> None:
    turned = 0
    for seed in range(12):
        layout: Layout = plan(np.random.default_rng([seed, 1]), 15.0)
        t = np.linspace(0, 15, 301)
        _, _, yaw, v, s = layout.ego.at(t)
        assert v.min() >= 0 and v.max() <= 14
        assert np.abs(np.diff(v) / np.diff(t)).max() < 6.0
        assert np.abs(v**2 * layout.ego.path.curvature_at(s)).max() < 4.5
        turned += abs(yaw[-1] - yaw[0]) > 1.2
    assert 1 <= turned <= 10


def test_a_senseless_duration_is_refused() -> None:
    with pytest.raises(ValueError, match="between 1 and 60"):
        make_world(0, 0.0)
