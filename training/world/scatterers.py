"""What answers a radar: scattering centres of objects, of what stands about, and of the ground.

A centre has its place and its mean strength for good, so that an echo comes back scan after scan; how strong it is in
one scan is the receiver's matter. Objects as few centres with a place and a side that they face: Buehren and Yang,
Automotive radar target list simulation based on reflection center representation of objects, WIT 2006.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world.mesh import Material
from training.world.place_noise import normals, uniforms
from training.world.raycast import REACH_M, View, tracer
from training.world.world import World

F = np.float32
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Body:
    """The centres of a class: how many on a long and on a short side (0 and 0: one in the middle); radar cross-section
    in dBsm, its mean, and deviations (dB) from object to object and from centre to centre; micro: deviation of the
    speeds of its parts (wheels, limbs) over its own."""

    along: int
    across: int
    mean: float
    of_object: float
    of_centre: float
    micro: float


@dataclass(frozen=True)
class Surroundings:
    """Strength (dBsm) of what belongs to no object: mean and deviation (dB) of the centre of a cell of metal, of
    a wall (the more the squarer it is met) and of anything else that stands, and of `ground_cell_m` of ground.

    shadow_db: what a path past an obstacle costs (diffraction, over a second bounce), under_db: one under a vehicle to
    the parts on its other side. reach_m: to where the ground answers; beyond the world's own reach nothing else does.
    wide_deg: to where to either side anything answers.
    """

    metal: tuple[float, float]
    wall: tuple[float, float]
    square_wall_db: float
    other: tuple[float, float]
    ground: tuple[float, float]
    ground_cell_m: float
    shadow_db: float
    under_db: float
    reach_m: float
    wide_deg: float


@dataclass(frozen=True)
class Echoes:
    """N centres before a sensor: place (N, 2) m and velocity over ground (N, 2) m/s in the sensor's frame, mean cross-
    section (N,) dBsm, micro (N,) as in Body, and for mirrors the normal (N, 2) of a wall, 0 elsewhere."""

    xy: Floats
    velocity: Floats
    rcs: Floats
    micro: Floats
    wall: Floats

    def at(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Echoes:
        return Echoes(self.xy[index], self.velocity[index], self.rcs[index], self.micro[index], self.wall[index])


@dataclass(frozen=True)
class _Look:
    """A fan of rays: azimuth (A,) rad; per azimuth and elevation (A, E): distance over ground (m, inf: free), owner
    (-1: none, -2: free or ground), point (A, E, 3) world, |cosine| of incidence, material; free (A,): to where the
    level ray passes."""

    azimuth: Floats
    distance: Floats
    owner: NDArray[np.int64]
    point: Floats
    normal: Floats
    facing: Floats
    material: NDArray[np.uint8]
    free: Floats


# The beam is 14 to 20 degrees high (data sheet of the ARS 408-21, Continental); nothing tells heights apart.
_ELEVATIONS_DEG = (-4.0, -1.5, 0.0, 1.5, 4.0, 8.0)
_STEP_DEG = 0.5
TOWN_CELL_M = 2.0
_INSET = 0.45  # of an object's sides: its centres lie on a rectangle that is a tenth smaller than its box
PATCH_M = 30.0  # distance at which the ground is as strong as its cell's numbers say
# Names of places: what random numbers of one kind of centre are told apart by.
_OBJECT, _PART, _TOWN, _GROUND = 1, 2, 3, 4


def echoes(
    world: World, world_from_sensor: Floats, stamp_ns: int, bodies: dict[str, Body], around: Surroundings
) -> Echoes:
    """All centres that a radar with this pose (4, 4) may see at this time, without regard to how strong they are."""
    look = _look(world, world_from_sensor, stamp_ns, around.wide_deg)
    sensor_from_world = np.linalg.inv(world_from_sensor)
    parts = [
        _of_actors(world, look, sensor_from_world, stamp_ns, bodies, around.under_db),
        _of_town(world, look, sensor_from_world, around),
        _of_ground(world, look, world_from_sensor, around),
    ]
    return together(parts)


def together(parts: list[Echoes]) -> Echoes:
    return Echoes(*(np.concatenate([getattr(p, name) for p in parts]) for name in Echoes.__dataclass_fields__))


def _look(world: World, world_from_sensor: Floats, stamp_ns: int, wide_deg: float) -> _Look:
    azimuth = np.deg2rad(np.arange(-wide_deg, wide_deg + 1e-6, _STEP_DEG))
    elevation = np.deg2rad(_ELEVATIONS_DEG)
    a, e = np.meshgrid(azimuth, elevation, indexing="ij")
    rays = np.stack([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)], axis=-1).reshape(-1, 3)
    directions = np.ascontiguousarray((rays @ world_from_sensor[:3, :3].T).astype(F))
    origins = np.ascontiguousarray(np.broadcast_to(world_from_sensor[:3, 3].astype(F), directions.shape))
    view = View(float(np.arctan2(world_from_sensor[1, 0], world_from_sensor[0, 0])), np.deg2rad(wide_deg + 10), 0.0)
    hits = tracer(world).cast(origins, directions, stamp_ns, view, reach=REACH_M)
    shape = (len(azimuth), len(elevation))
    solid = np.isfinite(hits.t) & (hits.material != Material.GROUND)
    flat = np.where(solid, hits.t * np.cos(e).ravel(), np.inf)
    distance = flat.reshape(shape).astype(float)
    free = distance[:, _ELEVATIONS_DEG.index(0.0)]
    return _Look(
        azimuth,
        distance,
        np.where(solid, hits.owner, -2).reshape(shape).astype(np.int64),
        hits.point.reshape(*shape, 3).astype(float),
        hits.normal.reshape(*shape, 3).astype(float),
        np.abs(np.einsum("ij,ij->i", hits.normal, directions)).reshape(shape).astype(float),
        hits.material.reshape(shape),
        free,
    )


def centres(size_lw: Floats, body: Body) -> tuple[Floats, Floats]:
    """Places (C, 2) m in the box's frame and the sides that they face (C, 2), unit vectors; 0: seen from everywhere.

    On every side as many as its body says, spread over it.
    """
    if not body.along and not body.across:
        return np.zeros((1, 2)), np.zeros((1, 2))
    places, sides = [], []
    for axis, count in ((0, body.along), (1, body.across)):
        steps = np.linspace(-_INSET, _INSET, count) if count > 1 else np.zeros(count)
        for sign in (-1.0, 1.0):
            place, side = np.empty((count, 2)), np.zeros((count, 2))
            place[:, axis], place[:, 1 - axis], side[:, 1 - axis] = steps, _INSET * sign, sign
            places.append(place * size_lw)
            sides.append(side)
    return np.concatenate(places), np.concatenate(sides)


def _of_actors(
    world: World, look: _Look, sensor_from_world: Floats, stamp_ns: int, bodies: dict[str, Body], under_db: float
) -> Echoes:
    turn = sensor_from_world[:2, :2]
    found = [_none()]
    for track in np.unique(look.owner[look.owner >= 0]).tolist():
        actor = world.actors[track]
        state = actor.state(stamp_ns)
        body = bodies[actor.name]
        place, side = centres(state.size_lwh[:2], body)
        c, s = np.cos(state.yaw), np.sin(state.yaw)
        heading = np.array([[c, -s], [s, c]])
        xy = (place @ heading.T + state.center[:2]) @ turn.T + sensor_from_world[:2, 3]
        facing = np.einsum("ij,ij->i", -xy / np.linalg.norm(xy, axis=1)[:, None], side @ heading.T @ turn.T)
        facing[(side == 0).all(axis=1)] = 1.0
        lit = _lit(look, xy, track)
        part = np.arange(len(xy))
        rcs = (
            body.mean
            + body.of_object * normals(world.seed, _OBJECT, track)
            + body.of_centre * normals(world.seed, _PART, track, part)
            + np.where(facing > 0, 20 * np.log10(np.clip(facing, 0.1, 1.0)), -under_db)
            + 20 * np.log10(np.maximum(lit, 1e-3))
        )
        velocity = np.tile(state.velocity[:2] @ turn.T, (len(xy), 1))
        found.append(Echoes(xy, velocity, rcs, np.full(len(xy), body.micro), np.zeros((len(xy), 2))).at(lit > 0.05))
    return together(found)


def _lit(look: _Look, xy: Floats, track: int) -> Floats:
    """(C,) how much of the object shows where each centre is, as a share of where it shows most: over a degree to
    either side, or a quarter of the object's width where that is less."""
    bearing = np.arctan2(xy[:, 1], xy[:, 0])
    shown = (look.owner == track).sum(axis=1)
    step = np.deg2rad(_STEP_DEG)
    window = np.clip(np.count_nonzero(shown) * step / 4, 0.51 * step, 2.0 * step)
    near = np.abs(look.azimuth[None, :] - bearing[:, None]) <= window
    return (near * shown).sum(axis=1) / np.maximum(1, near.sum(axis=1)) / max(1, int(shown.max()))


def _of_town(world: World, look: _Look, sensor_from_world: Floats, around: Surroundings) -> Echoes:
    """One centre in each cell of the map in which any ray meets something that stands."""
    standing = look.owner == -1
    point, material = look.point[standing], look.material[standing]
    if not len(point):
        return _none()
    cells, first = np.unique(np.floor(point[:, :2] / TOWN_CELL_M).astype(np.int64), axis=0, return_index=True)
    metal = np.isin(material[first], (Material.METAL, Material.REFLECTIVE, Material.SIGN, Material.LAMP))
    wall = material[first] == Material.FACADE
    mean, deviation = (
        np.where(metal, around.metal[k], np.where(wall, around.wall[k], around.other[k])) for k in (0, 1)
    )
    facing = look.facing[standing][first]
    rcs = mean + deviation * normals(world.seed, _TOWN, cells[:, 0], cells[:, 1])
    rcs = rcs + np.where(wall, around.square_wall_db * facing**8, 0.0)
    turn = sensor_from_world[:2, :2]
    xy = point[first, :2] @ turn.T + sensor_from_world[:2, 3]
    normal = look.normal[standing][first][:, :2] @ turn.T * wall[:, None]
    n = len(first)
    return Echoes(xy, np.zeros((n, 2)), rcs, np.zeros(n), normal)


def _of_ground(world: World, look: _Look, world_from_sensor: Floats, around: Surroundings) -> Echoes:
    """Kerbs, gullies, grass and whatever else lies about: a centre in each cell of a grid on the map."""
    step, reach = around.ground_cell_m, around.reach_m
    origin = world_from_sensor[:2, 3]
    low = np.floor((origin - reach) / step).astype(np.int64)
    i, j = (a.ravel() for a in np.meshgrid(*(np.arange(n, n + int(2 * reach / step) + 2) for n in low), indexing="ij"))
    place = np.stack(
        [(i + uniforms(world.seed, _GROUND, i, j, 10)) * step, (j + uniforms(world.seed, _GROUND, i, j, 11)) * step], 1
    )
    xy = (place - origin) @ world_from_sensor[:2, :2]
    distance, bearing = np.hypot(*xy.T), np.arctan2(xy[:, 1], xy[:, 0])
    keep = (distance < reach) & (distance > 1.0) & (np.abs(bearing) < np.deg2rad(around.wide_deg))
    i, j, xy, distance, bearing = i[keep], j[keep], xy[keep], distance[keep], bearing[keep]
    column = np.round((bearing - look.azimuth[0]) / np.deg2rad(_STEP_DEG)).astype(np.intp)
    rcs = around.ground[0] + around.ground[1] * normals(world.seed, _GROUND, i, j)
    # Of a surface the patch answers that the beam covers, and it widens with the distance.
    rcs = rcs + 10 * np.log10(distance / PATCH_M) - around.shadow_db * (distance > look.free[column])
    n = len(xy)
    return Echoes(xy, np.zeros((n, 2)), rcs, np.zeros(n), np.zeros((n, 2)))


def _none() -> Echoes:
    return Echoes(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros((0, 2)))
