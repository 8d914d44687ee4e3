"""The five radars: sparse returns with range, azimuth and radial speed, and the flaws of a real one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world.mesh import Material
from training.world.raycast import Hits, View, tracer
from training.world.rig import SensorMount
from training.world.world import World

F = np.float32
Floats = NDArray[np.float64]

# The 18 fields of nuScenes, in its order and types (nuscenes-devkit, python-sdk/nuscenes/utils/data_classes.py).
DTYPE = np.dtype(
    [
        ("x", "<f4"),
        ("y", "<f4"),
        ("z", "<f4"),
        ("dyn_prop", "i1"),
        ("id", "<i2"),
        ("rcs", "<f4"),
        ("vx", "<f4"),
        ("vy", "<f4"),
        ("vx_comp", "<f4"),
        ("vy_comp", "<f4"),
        ("is_quality_valid", "i1"),
        ("ambig_state", "i1"),
        ("x_rms", "i1"),
        ("y_rms", "i1"),
        ("invalid_state", "i1"),
        ("pdh0", "i1"),
        ("vx_rms", "i1"),
        ("vy_rms", "i1"),
    ]
)
MAX_RETURNS = 125

# Moving, oncoming, crossing and so on: the values of dyn_prop that are used here.
MOVING, STATIONARY, ONCOMING, CANDIDATE, CROSSING_MOVING = 0, 1, 2, 3, 6

_RAY_STEP_DEG = 0.5
_ELEVATIONS_DEG = (-2.0, -0.6, 0.6, 2.0, 4.5)
_WIDE_DEG, _WIDE_M, _LONG_DEG, _LONG_M = 60.0, 70.0, 9.0, 90.0

# Radar cross-section in dBsm by class: mean, and how many returns at most at close range.
_CLASS_ECHO: dict[str, tuple[float, float]] = {
    "car": (11.0, 4.5),
    "truck": (17.0, 6.0),
    "bus": (19.0, 6.5),
    "trailer": (18.0, 6.5),
    "construction_vehicle": (16.0, 5.0),
    "pedestrian": (-4.0, 1.3),
    "motorcycle": (4.0, 2.0),
    "bicycle": (0.0, 1.6),
    "traffic_cone": (-10.0, 0.45),
    "barrier": (5.0, 1.6),
}


@dataclass(frozen=True)
class _Echoes:
    """Reflecting spots before the sensor's flaws: sensor-frame x, y (m); world velocity; RCS; track id or -1."""

    xy: Floats
    velocity: Floats
    rcs: Floats
    owner: NDArray[np.int64]


def _fan() -> tuple[NDArray[np.float32], Floats]:
    """Unit rays (N, 3) in the sensor frame and the reach of each in metres."""
    azimuth = np.deg2rad(np.arange(-_WIDE_DEG, _WIDE_DEG + 1e-6, _RAY_STEP_DEG))
    elevation = np.deg2rad(_ELEVATIONS_DEG)
    a, e = (grid.ravel() for grid in np.meshgrid(azimuth, elevation))
    rays = np.stack([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)], axis=-1)
    return rays.astype(F), np.where(np.abs(a) <= np.deg2rad(_LONG_DEG), _LONG_M, _WIDE_M)


def _spots(hits: Hits, world: World, stamp_ns: int, sensor_from_world: Floats, rng: np.random.Generator) -> _Echoes:
    """Choose the spots that answer: a few per object by range and aspect, single ones of what stands about."""
    solid = np.flatnonzero(np.isfinite(hits.t) & (hits.material != Material.GROUND))
    local = hits.point[solid].astype(float) @ sensor_from_world[:3, :3].T + sensor_from_world[:3, 3]
    distance = np.hypot(local[:, 0], local[:, 1])
    owner, material = hits.owner[solid].astype(np.int64), hits.material[solid]
    facing = np.abs(np.einsum("ij,ij->i", local, hits.normal[solid] @ sensor_from_world[:3, :3].T)) / np.maximum(
        distance, 1
    )
    chosen: list[int] = []
    rcs: list[float] = []
    for track in np.unique(owner[owner >= 0]):
        actor = world.actors[track]
        mean, most = _CLASS_ECHO[actor.name]
        of = np.flatnonzero(owner == track)
        near = np.clip(1.2 - distance[of].min() / 75.0, 0.25, 1.0)
        shown = min(1.0, len(of) / 12.0 * max(1.0, distance[of].min() / 20.0))
        expected = most * near * (0.45 + 0.55 * shown)
        count = min(int(rng.poisson(expected) if expected > 1 else rng.random() < expected * 0.9), 8)
        if not count:
            continue
        weight = facing[of] + 0.15
        picks = rng.choice(of, size=min(count, len(of)), replace=False, p=weight / weight.sum())
        aspect = 4.0 * facing[picks] - 2.0
        chosen += picks.tolist()
        rcs += (mean + aspect + rng.normal(0, 3.0, len(picks))).tolist()
    # What stands about: walls at near-normal incidence, posts, fences, trees; one answer per 2 m cell.
    of = np.flatnonzero(owner < 0)
    cells = np.round(hits.point[solid[of], :2] / 2.0).astype(np.int64)
    _, first = np.unique(cells, axis=0, return_index=True)
    for i in of[first]:
        metal = material[i] in (Material.METAL, Material.REFLECTIVE, Material.SIGN)
        wall = material[i] == Material.FACADE
        p = 0.65 if metal else (0.08 + 0.5 * facing[i] ** 4 if wall else 0.22)
        if rng.random() < p * np.clip(1.15 - distance[i] / 90.0, 0.2, 1.0):
            chosen.append(int(i))
            rcs.append(float((8.0 if metal or wall else 0.0) + rng.normal(0, 5.0)))
    index = np.array(chosen, dtype=np.intp)
    velocity = np.zeros((len(index), 2))
    for k, track in enumerate(owner[index]):
        if track >= 0 and not world.actors[track].still:
            velocity[k] = world.actors[track].state(stamp_ns).velocity[:2]
            if world.actors[track].name in ("pedestrian", "bicycle") and rng.random() < 0.5:
                velocity[k] *= 1 + rng.normal(0, 0.2)  # limbs and spokes
    # The echo of a body comes from a little below its skin.
    depth = np.where(owner[index] >= 0, rng.uniform(0.0, 0.25, len(index)), 0.0)
    xy = local[index, :2] * (1 + depth / np.maximum(distance[index], 0.5))[:, None]
    return _Echoes(xy.reshape(-1, 2), velocity, np.array(rcs), owner[index])


def scan_radar(world: World, mount: SensorMount, stamp_ns: int, rng: np.random.Generator) -> NDArray[np.void]:
    """One scan: a structured array of `DTYPE` in the sensor frame, nearest first, at most 125 returns.

    x, y in metres with z = 0 (no elevation). vx, vy: the radial speed relative to the sensor, split along x and y;
    vx_comp, vy_comp: the same with the sensor's own motion over ground taken out. Raises ValueError for a mount that is
    no radar.
    """
    if mount.kind != "radar":
        raise ValueError(f"{mount.name} is a {mount.kind}, not a radar; choose one of the RADAR_ mounts")
    world_from_sensor = world.ego_pose(stamp_ns) @ mount.ego_from_sensor
    sensor_from_world = np.linalg.inv(world_from_sensor)
    rays, reach = _fan()
    directions = np.ascontiguousarray(rays @ world_from_sensor[:3, :3].T.astype(F))
    origins = np.ascontiguousarray(np.broadcast_to(world_from_sensor[:3, 3].astype(F), directions.shape))
    facing = float(np.arctan2(world_from_sensor[1, 0], world_from_sensor[0, 0]))
    view = View(facing, np.deg2rad(_WIDE_DEG + 15), detail_m=0.0)
    hits = tracer(world).cast(origins, directions, stamp_ns, view, reach=_LONG_M)
    hits.t[hits.t > reach] = np.inf
    echoes = _spots(hits, world, stamp_ns, sensor_from_world, rng)

    # The sensor's own velocity over ground, in the sensor frame.
    vx, vy, yaw_rate = world.ego_twist(stamp_ns)
    lever = mount.ego_from_sensor[:3, 3]
    own = (mount.ego_from_sensor[:2, :2].T @ np.array([vx - yaw_rate * lever[1], vy + yaw_rate * lever[0]])).ravel()
    relative = echoes.velocity @ sensor_from_world[:2, :2].T - own
    distance = np.hypot(*echoes.xy.T)
    radial = np.einsum("ij,ij->i", relative, echoes.xy) / np.maximum(distance, 0.1)
    azimuth = np.arctan2(echoes.xy[:, 1], echoes.xy[:, 0])
    rcs, owner = echoes.rcs, echoes.owner

    # Ghosts: a strong target seen again over a second bounce, twice as far and twice as fast.
    ghosts = np.flatnonzero((owner >= 0) & (rcs > 8) & (distance < 30) & (rng.random(len(rcs)) < 0.04))
    clutter = int(rng.poisson(5.0 + 6.0 * world.conditions.rain))
    distance = np.concatenate([distance, distance[ghosts] * 2, rng.uniform(1.5, _WIDE_M, clutter)])
    azimuth = np.concatenate([azimuth, azimuth[ghosts], np.deg2rad(rng.uniform(-_WIDE_DEG, _WIDE_DEG, clutter))])
    still = -(own[0] * np.cos(azimuth[len(azimuth) - clutter :]) + own[1] * np.sin(azimuth[len(azimuth) - clutter :]))
    wild = np.where(rng.random(clutter) < 0.12, rng.normal(0, 5, clutter), 0.0)
    radial = np.concatenate([radial, radial[ghosts] * 2, still + wild])
    rcs = np.concatenate([rcs, rcs[ghosts] - 8, rng.normal(-6, 5, clutter)])
    false = np.arange(len(distance)) >= len(owner)
    speed = np.concatenate([np.hypot(*echoes.velocity.T), np.zeros(len(ghosts) + clutter)])
    speed[len(speed) - clutter :] = np.abs(wild)

    distance = distance + rng.normal(0, 0.13, len(distance))
    sigma = np.deg2rad(0.5 + 1.0 * np.abs(azimuth) / np.deg2rad(_WIDE_DEG))
    azimuth = azimuth + rng.normal(0, 1, len(azimuth)) * sigma
    radial = radial + rng.normal(0, 0.1, len(radial))
    unit = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=-1)
    over_ground = radial + unit @ own
    order = np.argsort(distance)
    order = order[distance[order] > 0.3]
    if len(order) > MAX_RETURNS:  # the weakest are dropped
        strongest = np.sort(np.argsort(-rcs[order], kind="stable")[:MAX_RETURNS])
        order = order[strongest]

    out = np.zeros(len(order), DTYPE)
    take = unit[order]
    out["x"], out["y"] = (take * distance[order, None]).T
    out["vx"], out["vy"] = (take * radial[order, None]).T
    out["vx_comp"], out["vy_comp"] = (take * over_ground[order, None]).T
    out["rcs"] = np.round(rcs[order] * 2) / 2
    out["id"] = np.arange(len(order))
    out["dyn_prop"] = _dynamics(over_ground[order], speed[order], rng)
    bad = false[order]
    n = len(order)
    out["is_quality_valid"] = 1
    out["ambig_state"] = np.where(rng.random(n) < np.where(bad, 0.75, 0.97), 3, 4)
    out["invalid_state"] = np.where(rng.random(n) < np.where(bad, 0.55, 0.95), 0, rng.choice([4, 8, 11, 15, 17], n))
    out["pdh0"] = np.where(bad, rng.integers(1, 6, n), rng.choice([1, 1, 1, 1, 2], n))
    out["x_rms"] = np.clip(np.round(17 + distance[order] / 25 + rng.normal(0, 0.8, n)), 0, 31)
    out["y_rms"] = np.clip(np.round(18 + distance[order] / 12 + rng.normal(0, 0.8, n)), 0, 31)
    out["vx_rms"] = out["vy_rms"] = 3
    return out


def _dynamics(over_ground: Floats, speed: Floats, rng: np.random.Generator) -> NDArray[np.int8]:
    """dyn_prop as the sensor's tracker would say it from the compensated radial speed."""
    prop = np.full(len(over_ground), STATIONARY)
    prop[rng.random(len(prop)) < 0.25] = CANDIDATE
    moves = (speed > 0.5) | (np.abs(over_ground) > 0.6)
    prop[moves & (np.abs(over_ground) <= 0.5)] = CROSSING_MOVING
    prop[moves & (over_ground > 0.5)] = MOVING
    prop[moves & (over_ground < -0.5)] = ONCOMING
    return prop.astype(np.int8)
