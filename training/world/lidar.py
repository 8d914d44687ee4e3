"""The spinning LiDAR: 32 beams, one turn in 50 ms, seen from a moving car."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world.mesh import Material
from training.world.raycast import View, tracer
from training.world.rig import NS, SensorMount
from training.world.shading import ground_albedo
from training.world.world import World

F = np.float32

BEAMS = 32
COLUMNS = 1084
SWEEP_NS = 50_000_000
ELEVATION_DEG = (-30.0, 10.0)
RANGE_M = (1.0, 80.0)
NOISE_M = 0.02
DETAIL_M = 35.0
SLICES = 4  # the actors stand still within a quarter of the sweep

# Reflectivity by material, in the order of Material; the ground's comes from its paint.
_REFLECTIVITY = np.array([0.2, 0.35, 0.3, 0.04, 0.06, 0.6, 0.7, 0.3, 0.35, 0.45, 0.4, 1.0, 0.5, 0.5], F)


@dataclass(frozen=True)
class LidarSweep:
    """`points` (P, 5) float32: x, y, z (m), intensity (0..255) and ring, in the sensor frame; `instance` (P,) int32.

    Every column was seen from where the car was then; the points are NOT corrected to the stamp, the sweep's end.
    Columns come in the order of time: the first 50 ms before the stamp, the last at it.
    """

    points: NDArray[np.float32]
    instance: NDArray[np.int32]


def column_offsets_ns() -> NDArray[np.int64]:
    """When each azimuth column fires, relative to the sweep's stamp: (COLUMNS,) ns, from about -50 ms to 0."""
    return -((COLUMNS - 1 - np.arange(COLUMNS, dtype=np.int64)) * SWEEP_NS // COLUMNS)


def column_azimuths() -> NDArray[np.float64]:
    """The azimuth of each column in the sensor frame; the turn is clockwise and ends to the car's left and behind."""
    return np.deg2rad(200.0) - np.arange(COLUMNS) * 2 * np.pi / COLUMNS


def point_columns(points: NDArray[np.float32]) -> NDArray[np.intp]:
    """The column of each point (P, >=2) of a sweep, from its azimuth: the key to motion correction."""
    azimuth = np.arctan2(points[:, 1], points[:, 0])
    turn = (np.deg2rad(200.0) - azimuth) % (2 * np.pi)
    return np.round(turn / (2 * np.pi) * COLUMNS).astype(np.intp) % COLUMNS


def scan_lidar(world: World, mount: SensorMount, stamp_ns: int, rng: np.random.Generator) -> LidarSweep:
    """One sweep that ends at `stamp_ns`. Raises ValueError for a mount that is no LiDAR."""
    if mount.kind != "lidar":
        raise ValueError(f"{mount.name} is a {mount.kind}, not a LiDAR; choose LIDAR_TOP")
    caster = tracer(world)
    elevation = np.deg2rad(np.linspace(*ELEVATION_DEG, BEAMS))
    azimuth, offsets = column_azimuths(), column_offsets_ns()
    cos_e, sin_e = np.cos(elevation), np.sin(elevation)
    local = np.stack(
        [np.cos(azimuth)[:, None] * cos_e, np.sin(azimuth)[:, None] * cos_e, np.broadcast_to(sin_e, (COLUMNS, BEAMS))],
        axis=-1,
    )
    x, y, yaw, *_ = world.ego.at((stamp_ns + offsets) / NS)
    pose = np.zeros((COLUMNS, 3, 4))
    c, s = np.cos(yaw), np.sin(yaw)
    pose[:, 0, 0], pose[:, 0, 1], pose[:, 1, 0], pose[:, 1, 1], pose[:, 2, 2] = c, -s, s, c, 1.0
    pose[:, 0, 3], pose[:, 1, 3] = x, y
    world_from_sensor = pose @ mount.ego_from_sensor
    directions = np.einsum("cij,cbj->cbi", world_from_sensor[:, :, :3], local).astype(F)
    origins = np.broadcast_to(world_from_sensor[:, None, :, 3], directions.shape).astype(F)

    points, owners = [], []
    ring = np.tile(np.arange(BEAMS, dtype=F), COLUMNS).reshape(COLUMNS, BEAMS)
    for part in np.array_split(np.arange(COLUMNS), SLICES):
        middle = int(stamp_ns + offsets[part[len(part) // 2]])
        toward = directions[part[len(part) // 2], 0]
        view = View(float(np.arctan2(toward[1], toward[0])), np.pi / SLICES + 0.3, DETAIL_M, RANGE_M[1] + 8)
        d = np.ascontiguousarray(directions[part].reshape(-1, 3))
        hits = caster.cast(np.ascontiguousarray(origins[part].reshape(-1, 3)), d, middle, view, reach=RANGE_M[1])
        reflectivity = _REFLECTIVITY[hits.material]
        ground = np.flatnonzero((hits.material == Material.GROUND) & np.isfinite(hits.t))
        reflectivity[ground] = ground_albedo(world.town.ground, hits.point[ground], np.full(len(ground), F(0.2))).mean(
            1
        )
        facing = np.abs(np.einsum("ij,ij->i", hits.normal, d))
        with np.errstate(invalid="ignore", over="ignore"):
            echo = reflectivity * (F(0.25) + F(0.75) * facing) * np.exp(-hits.t * F(_extinction(world)))
            seen = np.isfinite(hits.t) & (hits.t > RANGE_M[0])
            # Weak echoes from afar are lost; wet and glancing ground goes first.
            lost = np.clip(F(0.02) + F(0.9) * (hits.t / F(95)) ** 3 * (F(1) - np.minimum(echo * 4, 1)), 0, 0.98)
        keep = np.flatnonzero(seen & (rng.random(len(d), dtype=F) > lost))
        noisy = hits.t[keep] + rng.standard_normal(len(keep), dtype=F) * F(NOISE_M)
        intensity = np.clip(echo[keep] * 130 * (1 + 0.15 * rng.standard_normal(len(keep), dtype=F)), 0, 255)
        own = local[part].reshape(-1, 3)[keep].astype(F)
        points.append(np.column_stack([own * noisy[:, None], np.round(intensity), ring[part].ravel()[keep]]))
        owners.append(hits.owner[keep])
    return LidarSweep(np.concatenate(points).astype(F), np.concatenate(owners))


def _extinction(world: World) -> float:
    return 0.03 * world.conditions.fog + 0.012 * world.conditions.rain
