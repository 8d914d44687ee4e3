"""Radar sweeps -> one ego-motion compensated cloud -> a BEV map or pillars of points."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from bev_perception.fault import Fault
from bev_perception.geometry import invert
from bev_perception.grid import BevGrid
from bev_perception.model_spec import PILLAR_COLUMNS, ModelSpec, RadarSpec
from bev_perception.structures import RADAR_COLUMNS, RadarSweep, SensorFrame

# Columns of the accumulated cloud: m, dBsm, m/s over ground along ego x and y, s.
POINT_COLUMNS = (*RADAR_COLUMNS, "age_s")
RCS_SCALE, SPEED_SCALE = 20.0, 10.0


def accumulate(frame: SensorFrame, spec: ModelSpec) -> np.ndarray:
    """All usable returns of all radars, (P, 7) float32 of POINT_COLUMNS, in the ego frame at the frame's stamp.

    radar(t) -> ego(t) -> odom -> ego(frame); then x, y += velocity * age, which moves a return to where its target
    is now as far as the Doppler speed tells (the radial part; as RadarDistill, CRN and BEVFusion do). Rows that are
    not finite are dropped.
    """
    sweeps = [sweep for radar in frame.radars for sweep in _usable(radar, frame, spec)]
    if not sweeps:
        return np.zeros((0, len(POINT_COLUMNS)), dtype=np.float32)
    points, of_sweep, velocity = finite_returns(sweeps)
    ego_from_radar = now_from_radar(sweeps, frame)[of_sweep]
    age = np.array([(frame.stamp_ns - s.scan.stamp_ns) * 1e-9 for s in sweeps])[of_sweep]
    cloud = np.empty((len(points), len(POINT_COLUMNS)), dtype=np.float32)
    velocity_ego = np.einsum("pij,pj->pi", ego_from_radar[:, :3, :3], velocity)[:, :2]
    position = np.einsum("pij,pj->pi", ego_from_radar[:, :3, :3], points[:, :3]) + ego_from_radar[:, :3, 3]
    position[:, :2] += velocity_ego * age[:, None]
    with np.errstate(over="ignore"):  # beyond float32: infinite, and out of every range
        cloud[:, :3] = position
        cloud[:, 4:6] = velocity_ego
    cloud[:, 3] = points[:, 3]
    cloud[:, 6] = age
    return cloud[np.isfinite(cloud).all(axis=1)]  # what float32 cannot hold is nowhere


def finite_returns(sweeps: list[RadarSweep]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one sweep or more those returns that are finite: (P, 6) float64 of RADAR_COLUMNS in the frame of their radar,
    (P,) of which sweep, (P, 3) velocity over ground along the radar's axes, m/s."""
    of_sweep = np.repeat(np.arange(len(sweeps)), [len(s.scan.points) for s in sweeps])
    points = np.concatenate([s.scan.points for s in sweeps]).astype(np.float64)
    finite = np.isfinite(points).all(axis=1)
    points, of_sweep = points[finite], of_sweep[finite]
    return points, of_sweep, over_ground(points, own_velocities(sweeps)[of_sweep])


def now_from_radar(sweeps: list[RadarSweep], frame: SensorFrame) -> np.ndarray:
    """One sweep or more -> (S, 4, 4): radar(t) -> ego(t) -> odom -> ego(frame)."""
    ego_from_odom = invert(frame.ego.odom_from_ego)
    return np.stack([ego_from_odom @ s.ego.odom_from_ego @ s.ego_from_radar for s in sweeps])


def rasterise(points: np.ndarray, grid: BevGrid, channels: tuple[str, ...]) -> np.ndarray:
    """(P, 7) accumulated points -> (C, X, Y) float32: log1p of the count and the means over each cell; 0 where empty.

    rcs is in units of 20 dBsm, vx and vy of 10 m/s, age in s, dx and dy in cells from the cell's centre.
    """
    cells, inside = grid.cells(points[:, :2])
    points, cells = points[inside], cells[inside]
    x, y = grid.shape
    flat = cells[:, 0] * y + cells[:, 1]
    count = np.bincount(flat, minlength=x * y)
    offsets = grid.fractional_cells(points[:, :2]) - cells - 0.5
    values = {
        "rcs": points[:, 3] / RCS_SCALE,
        "vx": points[:, 4] / SPEED_SCALE,
        "vy": points[:, 5] / SPEED_SCALE,
        "age": points[:, 6],
        "dx": offsets[:, 0],
        "dy": offsets[:, 1],
    }
    maps = np.empty((len(channels), x * y), dtype=np.float32)
    divisor = np.maximum(count, 1)
    for plane, name in zip(maps, channels):
        plane[:] = np.log1p(count) if name == "log_count" else np.bincount(flat, values[name], x * y) / divisor
    return maps.reshape(len(channels), x, y)


def group_pillars(points: np.ndarray, spec: ModelSpec) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """(P, 7) accumulated points -> the pillars of ModelSpec.inputs(), and how much did not fit (reason -> number).

    radar_points (V, M, 6) float32 of PILLAR_COLUMNS (m, dBsm, m/s), 0 where empty; radar_counts (V,) int32, points in
    the pillar; radar_cells (V,) int32, rising. An empty row has count 0 and a cell of its own beyond the grid,
    X * Y + row: no two rows have the same cell, so that a scatter is well defined on every engine.
    Of a pillar's points the newest are kept, of the pillars those nearest to base_link.
    """
    grid, limit, room = spec.pillar_grid(), spec.radar.max_pillars, spec.radar.pillar_points
    x, y = grid.shape
    cells, inside = grid.cells(points[:, :2])
    points, flat = points[inside], (cells[:, 0] * y + cells[:, 1])[inside]
    order = np.lexsort((points[:, 6], flat))  # by cell, the newest first
    points, flat = points[order], flat[order]
    occupied, first, counts = np.unique(flat, return_index=True, return_counts=True)
    rank = np.arange(len(flat)) - np.repeat(first, counts)
    distance = np.hypot(*(grid.centers().reshape(-1, 2)[occupied]).T)
    kept = np.sort(np.argsort(distance, kind="stable")[:limit])
    row_of = np.full(len(occupied), -1)
    row_of[kept] = np.arange(len(kept))
    row = np.repeat(row_of, counts)
    fits = (row >= 0) & (rank < room)

    arrays = {
        "radar_points": np.zeros((limit, room, len(PILLAR_COLUMNS)), dtype=np.float32),
        "radar_counts": np.zeros(limit, dtype=np.int32),
        "radar_cells": np.arange(x * y, x * y + limit, dtype=np.int32),
    }
    arrays["radar_points"][row[fits], rank[fits]] = points[fits, : len(PILLAR_COLUMNS)]
    arrays["radar_counts"][: len(kept)] = np.minimum(counts[kept], room)
    arrays["radar_cells"][: len(kept)] = occupied[kept]
    lost = {"pillars_over_limit": len(occupied) - len(kept), "points_over_limit": int((rank[row >= 0] >= room).sum())}
    return arrays, {reason: n for reason, n in lost.items() if n}


def _map_arrays(points: np.ndarray, spec: ModelSpec) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    return {"radar_bev": rasterise(points, spec.grid, spec.radar.channels)}, {}


# RadarSpec.format -> function (accumulated points, spec) -> the arrays of model_spec.RADAR_FORMATS, what did not fit.
RADAR_ARRAYS: dict[str, Callable[[np.ndarray, ModelSpec], tuple[dict[str, np.ndarray], dict[str, int]]]] = {
    "map": _map_arrays,
    "pillars": group_pillars,
}


def radar_arrays(points: np.ndarray, spec: ModelSpec) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """(P, 7) accumulated points -> the radar inputs of the spec without radar_valid, and what did not fit."""
    kept = within_limits(points, spec.radar)
    arrays, over = RADAR_ARRAYS[spec.radar.format](points[kept], spec)
    lost = {"returns_out_of_range": int(np.count_nonzero(~kept))}
    return arrays, {reason: n for reason, n in (lost | over).items() if n}


def within_limits(points: np.ndarray, radar: RadarSpec) -> np.ndarray:
    """(P,) bool over accumulated points: what a radar can have measured of traffic, by the limits of the spec.

    One return of an absurd speed or cross section, averaged over its cell, is seen by a network as a crowd.
    """
    (low_rcs, high_rcs), (low_z, high_z) = radar.rcs_dbsm, radar.z_m
    z, rcs, speed = points[:, 2], points[:, 3], np.linalg.norm(points[:, 4:6].astype(np.float64), axis=1)
    return (
        (rcs >= low_rcs) & (rcs <= high_rcs) & (z >= low_z) & (z <= high_z) & (speed <= radar.max_speed_mps)
    )  # fmt: skip


def prepare_radar(
    frame: SensorFrame, spec: ModelSpec
) -> tuple[dict[str, np.ndarray], dict[str, Fault], dict[str, int]]:
    """SensorFrame -> the radar inputs of ModelSpec.inputs(); radar -> why it is there but cannot be used; reason ->
    number of what did not fit into the inputs.

    radar_valid: a radar that sees nothing is valid; one that is missing or whose sweeps cannot be used is not.
    Whatever one radar raises is that radar's fault (`radar_failed`), never the frame's.
    """
    problems = radar_problems(frame, spec)
    usable = without(problems, frame, spec)
    try:
        points = accumulate(usable, spec)
    except Exception:  # who is it?
        points, failed = _one_by_one(usable, spec)
        problems |= failed
    valid = [bool(sweeps) and name not in problems for name, sweeps in zip(spec.radars, frame.radars)]
    arrays, lost = radar_arrays(points, spec)
    return arrays | {"radar_valid": np.array(valid, dtype=np.float32)}, problems, lost


def without(radars: Collection[str], frame: SensorFrame, spec: ModelSpec) -> SensorFrame:
    """The frame as if these radars had sent nothing."""
    if not radars:
        return frame
    kept = tuple(() if name in radars else sweeps for name, sweeps in zip(spec.radars, frame.radars))
    return replace(frame, radars=kept)


def _one_by_one(frame: SensorFrame, spec: ModelSpec) -> tuple[np.ndarray, dict[str, Fault]]:
    """The accumulated points of all radars that raise nothing when they are alone, and what the others raise."""
    clouds, faults = [np.zeros((0, len(POINT_COLUMNS)), dtype=np.float32)], {}
    for name in spec.radars:
        try:
            clouds.append(accumulate(without([other for other in spec.radars if other != name], frame, spec), spec))
        except Exception as error:
            faults[name] = Fault("radar_failed", f"{type(error).__name__}: {error}")
    return np.concatenate(clouds), faults


def radar_problems(frame: SensorFrame, spec: ModelSpec) -> dict[str, Fault]:
    """Radars of the frame that cannot be used: `stale`, `pose_jump`, `bad_layout`, `bad_calibration`, or `nan` (not
    one finite return)."""
    faults = {name: _problem(sweeps, frame, spec) for name, sweeps in zip(spec.radars, frame.radars) if sweeps}
    return {name: fault for name, fault in faults.items() if fault is not None}


def _problem(sweeps: tuple[RadarSweep, ...], frame: SensorFrame, spec: ModelSpec) -> Fault | None:
    usable = _usable(sweeps, frame, spec)
    if not usable:
        if all(sweep.ego.epoch != frame.ego.epoch for sweep in sweeps):
            return Fault("pose_jump", "the ego pose jumped between the scans and the frame")
        age_s = (frame.stamp_ns - max(sweep.scan.stamp_ns for sweep in sweeps)) / 1e9
        return Fault("stale", f"the newest scan is {age_s:.3f} s old, the model takes {spec.radar.max_age_s} s")
    shapes = [sweep.scan.points.shape for sweep in usable]
    if any(shape[1:] != (len(RADAR_COLUMNS),) for shape in shapes):
        return Fault("bad_layout", f"points of shape {shapes}, expected (P, {len(RADAR_COLUMNS)})")
    if not all(np.isfinite(sweep.ego_from_radar).all() for sweep in usable):
        return Fault("bad_calibration", "ego_from_radar is not finite")
    points = [sweep.scan.points for sweep in usable if len(sweep.scan.points)]
    if points and not any(np.isfinite(p).all(axis=1).any() for p in points):
        return Fault("nan", f"not one of {sum(map(len, points))} returns is finite")
    return None


def _usable(sweeps: tuple[RadarSweep, ...], frame: SensorFrame, spec: ModelSpec) -> list[RadarSweep]:
    """The newest sweeps of one radar that are young enough and share the frame's odometry."""
    oldest_ns = frame.stamp_ns - round(spec.radar.max_age_s * 1e9)
    usable = [s for s in sweeps if s.scan.stamp_ns >= oldest_ns and s.ego.epoch == frame.ego.epoch]
    return usable[: spec.radar.sweeps]


def over_ground(points: np.ndarray, own_velocity: np.ndarray) -> np.ndarray:
    """Returns (P, 6) and the velocity of their radar in its own axes (P, 3) -> (P, 3) their velocity over ground there:
    what was measured and, along each line of sight, the radar's own."""
    rays = points[:, :3] / np.maximum(np.linalg.norm(points[:, :3], axis=1), 1e-6)[:, None]
    velocity = np.zeros((len(points), 3))
    velocity[:, :2] = points[:, 4:6]
    return velocity + np.sum(own_velocity * rays, axis=1, keepdims=True) * rays


def own_velocities(sweeps: list[RadarSweep]) -> np.ndarray:
    """(S, 3) velocity of the radars themselves in their own axes, lever arm included; zero for compensated scans."""
    ego_from_radar = np.stack([s.ego_from_radar for s in sweeps])
    linear, angular = np.stack([s.ego.linear for s in sweeps]), np.stack([s.ego.angular for s in sweeps])
    velocity = linear + np.cross(angular, ego_from_radar[:, :3, 3])
    velocity[[s.scan.compensated for s in sweeps]] = 0.0
    return np.einsum("sji,sj->si", ego_from_radar[:, :3, :3], velocity)
