"""Radar accumulation against closed forms and loops, rasterisation against loops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bev_perception.ego_motion import integrate_twist
from bev_perception.geometry import invert, make_transform, rotation_from_yaw, transform_points
from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, RADAR_FORMATS, ModelSpec, RadarSpec
from bev_perception.preprocess import prepare_inputs
from bev_perception.preprocess.radar import (
    RADAR_ARRAYS,
    accumulate,
    group_pillars,
    prepare_radar,
    radar_arrays,
    radar_problems,
    rasterise,
    within_limits,
)
from bev_perception.structures import EgoPose, RadarScan, RadarSweep, SensorFrame

MS = 1_000_000
SPEC = ModelSpec("m", (), ("near", "far"), dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 1.0))
LINEAR, ANGULAR = np.array([12.0, 0.3, 0.0]), np.array([0.0, 0.0, 0.4])
MOUNTS = {
    "near": make_transform(rotation_from_yaw(0.1), np.array([3.4, 0.2, 0.5])),
    "far": make_transform(rotation_from_yaw(2.9), np.array([-0.6, -0.7, 0.6])),
}


def ego_at(stamp_ns, epoch=0):
    pose = make_transform(rotation_from_yaw(0.7), np.array([100.0, -40.0, 0.0]))
    return EgoPose(stamp_ns, pose @ integrate_twist(LINEAR, ANGULAR, stamp_ns / 1e9), LINEAR, ANGULAR, epoch)


def sweep_of(name, stamp_ns, points, compensated=True, epoch=0):
    scan = RadarScan(name, stamp_ns, np.asarray(points, np.float32), compensated)
    return RadarSweep(scan, MOUNTS[name], ego_at(stamp_ns, epoch))


def frame_of(near, far=(), stamp_ns=0):
    return SensorFrame(stamp_ns, ego_at(stamp_ns), (), (tuple(near), tuple(far)))


def doppler(name, stamp_ns, target_odom, target_velocity_odom, compensated):
    """What a perfect radar reports of a moving point, from first principles: numerical derivative of the range."""
    dt = 1e-5

    def in_radar(t_s):
        odom_from_radar = ego_at(round(t_s * 1e9)).odom_from_ego @ MOUNTS[name]
        if compensated:  # as if the radar stood still where it is
            odom_from_radar = ego_at(stamp_ns).odom_from_ego @ MOUNTS[name]
        moved = target_odom + target_velocity_odom * (t_s - stamp_ns / 1e9)
        return transform_points(invert(odom_from_radar), moved[None])[0]

    t = stamp_ns / 1e9
    here = in_radar(t)
    speed = (np.linalg.norm(in_radar(t + dt)) - np.linalg.norm(in_radar(t - dt))) / (2 * dt)
    ray = here / np.linalg.norm(here)
    return [*here, 10.0, *(speed * ray[:2])]


@pytest.mark.parametrize("compensated", [True, False])
def test_fixed_points_of_many_sweeps_fall_together(compensated):
    rng = np.random.default_rng(0)
    points_odom = np.column_stack([rng.uniform(60, 140, 20), rng.uniform(-80, 0, 20), np.full(20, 0.55)])
    near = [
        sweep_of("near", t, [doppler("near", t, p, np.zeros(3), compensated) for p in points_odom], compensated)
        for t in (-20 * MS, -97 * MS, -174 * MS, -328 * MS)
    ]
    far = [
        sweep_of(
            "far", -60 * MS, [doppler("far", -60 * MS, p, np.zeros(3), compensated) for p in points_odom], compensated
        )
    ]
    cloud = accumulate(frame_of(near, far), SPEC)
    assert cloud.shape == (100, 7) and cloud.dtype == np.float32
    expected = transform_points(invert(ego_at(0).odom_from_ego), points_odom)
    for sweep in cloud.reshape(5, 20, 7):
        np.testing.assert_allclose(sweep[:, :3], expected, atol=0.01)
        # Radial speed over ground of what stands still: 0, also where the radar's own motion had to be added.
        np.testing.assert_allclose(sweep[:, 4:6], 0.0, atol=0.02)
    np.testing.assert_allclose(cloud[:, 6], np.repeat([0.020, 0.097, 0.174, 0.328, 0.060], 20), atol=1e-6)
    np.testing.assert_allclose(cloud[:, 3], 10.0)


@pytest.mark.parametrize("compensated", [True, False])
def test_a_target_that_drives_away_is_moved_to_where_it_is_now(compensated):
    stamp = -400 * MS
    radar_odom = ego_at(stamp).odom_from_ego @ MOUNTS["near"]
    start = transform_points(radar_odom, np.array([[30.0, 4.0, 0.0]]))[0]
    away = start - radar_odom[:3, 3]
    velocity = 15.0 * away / np.linalg.norm(away)  # along the ray: the radar sees all of it
    point = doppler("near", stamp, start, velocity, compensated)
    cloud = accumulate(frame_of([sweep_of("near", stamp, [point], compensated)]), SPEC)
    ego_from_odom = invert(ego_at(0).odom_from_ego)
    now = transform_points(ego_from_odom, (start + 0.4 * velocity)[None])[0]
    np.testing.assert_allclose(cloud[0, :3], now, atol=0.03)
    np.testing.assert_allclose(cloud[0, 4:6], (ego_from_odom[:3, :3] @ velocity)[:2], atol=0.02)


def reasons(frame):
    problems = radar_problems(frame, SPEC)
    assert prepare_radar(frame, SPEC)[1] == problems and all(fault.detail for fault in problems.values())
    return {name: fault.reason for name, fault in problems.items()}


def test_rows_with_nan_are_dropped_and_a_radar_of_nan_only_is_named():
    good, bad = [10.0, 0, 0, 5, 0, 0], [np.nan, 0, 0, 5, 0, 0]
    frame = frame_of([sweep_of("near", -20 * MS, [good, bad])], [sweep_of("far", -20 * MS, [bad, bad])])
    assert len(accumulate(frame, SPEC)) == 1
    assert reasons(frame) == {"far": "nan"}
    assert prepare_radar(frame, SPEC)[0]["radar_valid"].tolist() == [1.0, 0.0]


def test_empty_scans_are_valid_and_missing_radars_are_not():
    empty = sweep_of("near", -20 * MS, np.zeros((0, 6)))
    radar_bev, radar_valid = prepare_radar(frame_of([empty]), SPEC)[0].values()
    assert radar_valid.tolist() == [1.0, 0.0] and not radar_bev.any()
    radar_bev, radar_valid = prepare_radar(frame_of([]), SPEC)[0].values()
    assert radar_valid.tolist() == [0.0, 0.0] and not radar_bev.any()
    assert radar_bev.shape == (7, 128, 128) and radar_bev.dtype == np.float32


def test_only_the_newest_sweeps_within_the_age_limit_count():
    sweeps = [sweep_of("near", -k * 77 * MS, [[10.0, 0, 0, k, 0, 0]]) for k in range(9)]
    assert accumulate(frame_of(sweeps), SPEC)[:, 3].tolist() == [0, 1, 2, 3, 4, 5]
    oldest = [sweep_of("near", -600 * MS, [[10.0, 0, 0, 7, 0, 0]]), sweep_of("near", -600 * MS - 1, [[9.0] * 6])]
    assert accumulate(frame_of(oldest), SPEC)[:, 3].tolist() == [7]  # as old as allowed, not older
    old = frame_of(sweeps[8:])  # 616 ms
    assert len(accumulate(old, SPEC)) == 0 and reasons(old) == {"near": "stale"}


def test_sweeps_from_before_a_pose_jump_are_not_used():
    sweeps = [
        sweep_of("near", -20 * MS, [[10.0, 0, 0, 1, 0, 0]]),
        sweep_of("near", -97 * MS, [[10.0, 0, 0, 2, 0, 0]], epoch=-1),
    ]
    assert accumulate(frame_of(sweeps), SPEC)[:, 3].tolist() == [1]
    assert reasons(frame_of(sweeps[1:])) == {"near": "pose_jump"}
    old = sweep_of("near", -700 * MS, [[10.0, 0, 0, 3, 0, 0]])
    assert reasons(frame_of([sweeps[1], old])) == {"near": "stale"}  # the jump alone does not explain it


def raster_by_loops(points, grid, channels):
    cells = {}
    for p in points.astype(np.float64):
        ix, iy = int(np.floor((p[0] - grid.x_min) / grid.step)), int(np.floor((p[1] - grid.y_min) / grid.step))
        if 0 <= ix < grid.shape[0] and 0 <= iy < grid.shape[1]:
            cells.setdefault((ix, iy), []).append(p)
    out = np.zeros((len(channels), *grid.shape))
    for (ix, iy), members in cells.items():
        mean = np.mean(members, axis=0)
        values = {
            "log_count": np.log(1 + len(members)),
            "rcs": mean[3] / 20,
            "vx": mean[4] / 10,
            "vy": mean[5] / 10,
            "age": mean[6],
            "dx": (mean[0] - (grid.x_min + (ix + 0.5) * grid.step)) / grid.step,
            "dy": (mean[1] - (grid.y_min + (iy + 0.5) * grid.step)) / grid.step,
        }
        out[:, ix, iy] = [values[c] for c in channels]
    return out


@pytest.mark.parametrize("grid", [BevGrid(), BevGrid(-10.0, 30.0, -20.0, 20.0, 2.5)])
def test_raster_equals_loops(grid):
    rng = np.random.default_rng(1)
    points = np.column_stack([rng.normal(0, 25, (800, 2)), rng.normal(0, 5, (800, 5))]).astype(np.float32)
    for channels in (SPEC.radar.channels, ("dy", "rcs", "log_count")):
        found = rasterise(points, grid, channels)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, raster_by_loops(points, grid, channels), atol=2e-5)


def test_inputs_have_the_shapes_the_spec_promises():
    spec = dataclasses.replace(SPEC, cameras=("a",))
    frame = SensorFrame(0, ego_at(0), (None,), ((sweep_of("near", -20 * MS, [[10.0, 0, 0, 1, 0, 0]]),), ()))
    inputs, problems, lost = prepare_inputs(frame, spec)
    expected = {t.name: (t.shape, t.dtype) for t in spec.inputs() if not t.name.startswith("prev_")}
    assert {name: (a.shape, str(a.dtype)) for name, a in inputs.items()} == expected
    assert problems == {} and lost == {}


def pillars_by_loops(points, spec):
    """cell -> its points, newest first."""
    grid, members = spec.pillar_grid(), {}
    for p in sorted(points.astype(np.float64).tolist(), key=lambda p: p[6]):
        ix, iy = int(np.floor((p[0] - grid.x_min) / grid.step)), int(np.floor((p[1] - grid.y_min) / grid.step))
        if 0 <= ix < grid.shape[0] and 0 <= iy < grid.shape[1]:
            members.setdefault(ix * grid.shape[1] + iy, []).append(p[:6])
    return members


def pillar_spec(max_pillars=300, pillar_points=40):
    sizes = {"pillar_step": 0.2, "max_pillars": max_pillars, "pillar_points": pillar_points}
    radar = RadarSpec(format="pillars", **sizes, z_m=(-100.0, 100.0))
    return dataclasses.replace(SPEC, grid=BevGrid(-8.0, 8.0, -4.0, 4.0, 0.8), radar=radar)


def crowd():
    rng = np.random.default_rng(2)
    points = np.column_stack([rng.normal(0, 4, (150, 2)), rng.normal(0, 5, (150, 4)), rng.uniform(0, 0.6, 150)])
    return np.concatenate([points, points[:60] + [0.001, 0, 0, 1, 0, 0, 0.01]]).astype(np.float32)


def test_pillars_equal_loops_and_scatter_without_conflict():
    spec, points = pillar_spec(), crowd()
    arrays, lost = group_pillars(points, spec)
    assert {n: (a.shape, str(a.dtype)) for n, a in arrays.items()} == {
        t.name: (t.shape, t.dtype) for t in spec.inputs() if t.name.startswith("radar_") and t.name != "radar_valid"
    }
    expected = pillars_by_loops(points, spec)
    used = int((arrays["radar_counts"] > 0).sum())
    assert lost == {} and 50 < used == len(expected) < 300 and max(map(len, expected.values())) > 1
    assert arrays["radar_cells"][:used].tolist() == sorted(expected)
    for row, cell in enumerate(sorted(expected)):
        count = arrays["radar_counts"][row]
        np.testing.assert_allclose(arrays["radar_points"][row, :count], expected[cell], rtol=1e-6)
        assert not arrays["radar_points"][row, count:].any()
    x, y = spec.pillar_grid().shape
    assert len(set(arrays["radar_cells"].tolist())) == 300 and arrays["radar_cells"].max() < x * y + 300
    assert (arrays["radar_cells"][used:] >= x * y).all() and not arrays["radar_points"][used:].any()


def test_too_many_pillars_or_points_keep_the_nearest_and_newest_and_are_counted():
    spec, points = pillar_spec(max_pillars=20, pillar_points=1), crowd()
    arrays, lost = group_pillars(points, spec)
    everything, y = pillars_by_loops(points, spec), spec.pillar_grid().shape[1]
    centers = spec.pillar_grid().centers()
    nearest = sorted(everything, key=lambda c: (np.hypot(*centers[c // y, c % y]), c))[:20]
    assert arrays["radar_cells"].tolist() == sorted(nearest)
    for row, cell in enumerate(sorted(nearest)):
        np.testing.assert_allclose(arrays["radar_points"][row, 0], everything[cell][0], rtol=1e-6)
    assert lost == {
        "pillars_over_limit": len(everything) - 20,
        "points_over_limit": sum(len(everything[c]) - 1 for c in nearest),
    }
    assert lost["points_over_limit"] > 0
    frame = frame_of([sweep_of("near", -20 * MS, points[:, :6])])
    assert prepare_inputs(frame, spec)[2].keys() == {"radar/pillars_over_limit", "radar/points_over_limit"}


def test_no_points_make_empty_pillars():
    arrays, lost = group_pillars(np.zeros((0, 7), np.float32), pillar_spec())
    assert lost == {} and not arrays["radar_points"].any() and not arrays["radar_counts"].any()


@pytest.mark.parametrize("form", RADAR_FORMATS)
def test_every_form_is_made_as_the_spec_says(form):
    spec = dataclasses.replace(pillar_spec(), radar=dataclasses.replace(pillar_spec().radar, format=form))
    points = np.random.default_rng(0).uniform(-5, 5, (40, 7)).astype(np.float32)
    found = [(name, array.shape, array.dtype.name) for name, array in radar_arrays(points, spec)[0].items()]
    assert found == [(t.name, t.shape, t.dtype) for t in RADAR_FORMATS[form](spec)] and set(RADAR_ARRAYS) == set(
        RADAR_FORMATS
    )


def test_absurd_returns_do_not_reach_the_network_and_are_counted():
    """Averaged over its cell, one return of 1e6 m/s or dBsm was a crowd to the network."""
    good = [5.0, 1.0, 0.0, 10.0, 3.0, 0.0]
    absurd = [[5.0, 1.0, 0.0, 1e6, 3.0, 0.0], [5.0, 1.0, 0.0, 10.0, 1e6, 0.0], [5.0, 1.0, 0.0, 10.0, 0.0, -71.0]]
    absurd += [[5.0, 1.0, 25.0, 10.0, 3.0, 0.0], [5.0, 1.0, 0.0, -65.0, 3.0, 0.0], [3e38, 3e38, 3e38, 0.0, 3e38, 0.0]]
    clean, _, nothing = prepare_inputs(frame_of([sweep_of("near", 0, [good])]), SPEC)
    found, problems, lost = prepare_inputs(frame_of([sweep_of("near", 0, [good, *absurd])]), SPEC)
    assert nothing == {} and lost == {"radar/returns_out_of_range": len(absurd)} and problems == {}
    assert all((found[name] == array).all() for name, array in clean.items())
    edge = np.array([[5.0, 1.0, 20.0, 64.0, 70.0, 0.0, 0.0], [5.0, 1.0, -10.0, -64.0, 0.0, 70.0, 0.0]], np.float32)
    assert within_limits(edge, RadarSpec()).tolist() == [True, True]
    assert not within_limits(edge * np.float32(1.001), RadarSpec()).any()
    at_the_limits = [[5.0, 1.0, 0.0, 64.0, 70.0, 0.0], [5.0, 1.0, 0.0, -64.0, 0.0, 70.0]]
    assert prepare_inputs(frame_of([sweep_of("near", 0, at_the_limits)]), SPEC)[2] == {}
