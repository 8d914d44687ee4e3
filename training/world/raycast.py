"""Casting rays at the world: Embree for the triangles, a plane for the ground."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

from training.world import figures, shapes
from training.world.actors import Actor
from training.world.city.shapes import city_mesh
from training.world.mesh import Material, Mesh, box, join
from training.world.world import World

Floats32 = NDArray[np.float32]

REACH_M = 95.0
NEAR_M = 14.0
PHASES = 16
STATIC_STEP_M = 15.0  # the static scene is rebuilt when the ego comes nearest to another corner of this grid
FAR = np.float32(1e6)


@dataclass(frozen=True)
class View:
    """Which movers a cast needs: those within `half_angle` (rad) of a world azimuth, or close by for their shadows.

    Those beyond `detail_m` are plain blocks, for sensors too coarse to tell: their scene builds faster.
    """

    azimuth: float = 0.0
    half_angle: float = np.pi
    detail_m: float = np.inf
    reach_m: float = REACH_M


@dataclass(frozen=True)
class Hits:
    """Where N rays end. `t` (N,) float32 distance in units of the ray's length, inf for the sky; `point`, `normal`
    (N, 3) float32 facing the ray; `colour` (N, 3) float32 linear RGB albedo (0 on the ground, which is painted
    elsewhere); `material` (N,) uint8; `owner` (N,) int32 track id, -1 for none; `moving` (N,) bool: hit of a mover."""

    t: Floats32
    point: Floats32
    normal: Floats32
    colour: Floats32
    material: NDArray[np.uint8]
    owner: NDArray[np.int32]
    moving: NDArray[np.bool_]


def body_mesh(actor: Actor, phase: float, busy: bool = False) -> Mesh:
    """The actor's triangles about its gravity centre; `phase` in [0, 1) of a walker's or rider's swing; `busy` as in
    `Style`: of the many kinds of bodies."""
    if busy:
        return city_mesh(actor, phase).owned_by(actor.track_id)
    length, width, height = (float(value) for value in actor.size_lwh)
    size = length, width, height
    if actor.name == "pedestrian":
        mesh = figures.pedestrian(size, actor.style, phase * 2 * figures.STRIDE_M)
    elif actor.name == "bicycle":
        mesh = figures.bicycle(size, actor.style, phase * figures.PEDAL_TURN_M, actor.rider)
    elif actor.name == "motorcycle":
        mesh = figures.motorcycle(size, actor.style, actor.rider)
    elif actor.name == "traffic_cone":
        mesh = figures.traffic_cone(size)
    elif actor.name == "barrier":
        mesh = figures.barrier(size, actor.style)
    else:
        mesh = shapes.vehicle(actor.name, size, actor.style)
    return mesh.owned_by(actor.track_id)


def _swing(actor: Actor, station: float) -> int:
    """Which of the PHASES of its swing the actor is in after `station` metres."""
    if actor.still or actor.name not in ("pedestrian", "bicycle"):
        return 0
    cycle = 2 * figures.STRIDE_M if actor.name == "pedestrian" else figures.PEDAL_TURN_M
    return int(station / cycle % 1.0 * PHASES)


@dataclass
class Tracer:
    """Casts rays into a world at one time after another; keeps what did not change since the last time."""

    world: World
    _still: Mesh | None = None
    _still_centre: NDArray[np.float32] | None = None
    _bodies: dict[tuple[int, int], Mesh] = field(default_factory=dict)
    _near: tuple[NDArray[np.float64], Mesh, EmbreeScene] | None = None
    _movers: tuple[tuple[int, View], Mesh, EmbreeScene] | None = None

    def _static(self, stamp_ns: int) -> tuple[Mesh, EmbreeScene]:
        # A corner of a fixed grid, not where the last rebuild was: a scan must not depend on the scans made before it.
        centre = np.round(self.world.ego_pose(stamp_ns)[:2, 3] / STATIC_STEP_M) * STATIC_STEP_M
        if self._near is None or (centre != self._near[0]).any():
            if self._still is None:
                parked = []
                for actor in self.world.actors:
                    if actor.still:
                        x, y, yaw, _, station = (float(value) for value in actor.motion.at(0.0))
                        body = self._body(actor, station, True)
                        parked.append(body.placed(x, y, float(actor.size_lwh[2]) / 2, yaw))
                self._still = join([self.world.town.clutter, *parked])
                self._still_centre = self._still.triangles[..., :2].mean(1)
            assert self._still_centre is not None
            offset = self._still_centre - centre.astype(np.float32)
            mesh = self._still.select(np.hypot(offset[:, 0], offset[:, 1]) < REACH_M + STATIC_STEP_M)
            self._near = centre, mesh, _scene(mesh)
        return self._near[1], self._near[2]

    def _body(self, actor: Actor, station: float, detailed: bool) -> Mesh:
        """The actor about its gravity centre, as its full mesh or as a plain block."""
        phase = _swing(actor, station) if detailed else -1
        if (actor.track_id, phase) not in self._bodies:
            busy = self.world.style.busy
            body = body_mesh(actor, phase / PHASES, busy) if detailed else _block(actor)
            self._bodies[actor.track_id, phase] = body
        return self._bodies[actor.track_id, phase]

    def _moving(self, stamp_ns: int, view: View) -> tuple[Mesh, EmbreeScene]:
        if self._movers is None or self._movers[0] != (stamp_ns, view):
            x, y, yaw, _, station = self.world.mover_poses(stamp_ns)
            dx, dy = (np.stack([x, y]).T - self.world.ego_pose(stamp_ns)[:2, 3]).T
            distance = np.hypot(dx, dy)
            aside = np.abs((np.arctan2(dy, dx) - view.azimuth + np.pi) % (2 * np.pi) - np.pi)
            seen = (distance < view.reach_m) & ((aside < view.half_angle) | (distance < NEAR_M))
            meshes = []
            for i in np.flatnonzero(seen):
                actor = self.world.movers[i]
                body = self._body(actor, float(station[i]), bool(distance[i] < view.detail_m))
                meshes.append(body.placed(float(x[i]), float(y[i]), float(actor.size_lwh[2]) / 2, float(yaw[i])))
            mesh = join(meshes)
            self._movers = (stamp_ns, view), mesh, _scene(mesh)
        return self._movers[1], self._movers[2]

    def cast(self, origins: Floats32, directions: Floats32, stamp_ns: int, view: View, reach: float = np.inf) -> Hits:
        """First hits of rays in the world frame, (N, 3) float32 each; `reach` in units of the ray's length."""
        n = len(directions)
        still, still_scene = self._static(stamp_ns)
        movers, mover_scene = self._moving(stamp_ns, view)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.where(directions[:, 2] < -1e-6, -origins[:, 2] / directions[:, 2], np.inf).astype(np.float32)
        t[t > reach] = np.inf
        limit = np.minimum(t, FAR)
        normal = np.zeros((n, 3), np.float32)
        normal[:, 2] = 1.0
        colour = np.zeros((n, 3), np.float32)
        material = np.full(n, Material.GROUND, np.uint8)
        owner = np.full(n, -1, np.int32)
        moving = np.zeros(n, bool)
        for mesh, scene, moves in ((still, still_scene, False), (movers, mover_scene, True)):
            if not len(mesh):
                continue
            found = scene.run(origins, directions, dists=limit.copy(), query="INTERSECT", output=1)
            hit = np.flatnonzero((found["primID"] >= 0) & (found["tfar"] < limit) & (found["tfar"] <= reach))
            triangle = found["primID"][hit]
            t[hit] = limit[hit] = found["tfar"][hit]
            normal[hit], colour[hit] = found["Ng"][hit], mesh.colour[triangle]
            material[hit], owner[hit], moving[hit] = mesh.material[triangle], mesh.owner[triangle], moves
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), np.float32(1e-12))
        facing = np.einsum("ij,ij->i", normal, directions)
        normal *= np.where(facing > 0, np.float32(-1), np.float32(1))[:, None]
        with np.errstate(invalid="ignore"):
            point = origins + directions * np.where(np.isfinite(t), t, np.float32(0))[:, None]
        return Hits(t, point, normal, colour, material, owner, moving)

    def shadowed(
        self, points: Floats32, normals: Floats32, sun: Floats32, stamp_ns: int, view: View
    ) -> NDArray[np.bool_]:
        """Whether something stands between the points and the sun (a unit vector towards it)."""
        origins = points + normals * np.float32(0.02)
        directions = np.ascontiguousarray(np.broadcast_to(sun, origins.shape))
        dark = np.zeros(len(points), bool)
        for mesh, scene in (self._static(stamp_ns), self._moving(stamp_ns, view)):
            if len(mesh) and len(points):
                dark |= scene.run(origins, directions, query="OCCLUDED") >= 0
        return dark

    def covered(
        self, points: Floats32, directions: Floats32, reach_m: float, stamp_ns: int, view: View
    ) -> NDArray[np.bool_]:
        """Whether something stands within `reach_m` of points of the ground along unit directions, (N, 3) each."""
        origins = points + np.array([0, 0, 0.02], np.float32)
        hit = np.zeros(len(points), bool)
        for mesh, scene in (self._static(stamp_ns), self._moving(stamp_ns, view)):
            if len(mesh) and len(points):
                reach = np.full(len(points), reach_m, np.float32)
                hit |= scene.run(origins, np.ascontiguousarray(directions), dists=reach, query="OCCLUDED") >= 0
        return hit


def _block(actor: Actor) -> Mesh:
    ln, w, h = (float(value) for value in actor.size_lwh)
    shrink = 0.6 if actor.name in ("pedestrian", "bicycle", "motorcycle") else 0.95
    return box((0, 0, 0), (ln * shrink, w * shrink, h * 0.95), (0.3, 0.3, 0.3), Material.PAINT).owned_by(actor.track_id)


def _scene(mesh: Mesh) -> EmbreeScene:
    scene = EmbreeScene()
    if len(mesh):
        TriangleMesh(scene, mesh.triangles)
    return scene


def tracer(world: World) -> Tracer:
    """The world's tracer, made at the first call and kept with the world."""
    if world.tracer is None:
        world.tracer = Tracer(world)
    assert isinstance(world.tracer, Tracer)
    return world.tracer
