"""Triangle meshes from a few primitives, with a colour, a material and an owner for every triangle."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats32 = NDArray[np.float32]
Colour = tuple[float, float, float]


def tinted(colour: Colour, factor: float) -> Colour:
    """The colour made lighter or darker."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor


def any_colour(rng: np.random.Generator, low: float, high: float) -> Colour:
    r, g, b = (float(value) for value in rng.uniform(low, high, 3))
    return r, g, b


class Material(IntEnum):
    """What a surface is made of: decides texture, gloss, glow, LiDAR intensity and radar echo."""

    GROUND = 0
    MATTE = 1
    PAINT = 2
    GLASS = 3
    RUBBER = 4
    HEADLIGHT = 5
    TAILLIGHT = 6
    FACADE = 7
    FOLIAGE = 8
    METAL = 9
    CLOTH = 10
    REFLECTIVE = 11
    LAMP = 12
    SIGN = 13


@dataclass(frozen=True)
class Mesh:
    """`triangles` (N, 3, 3) float32 m, `colour` (N, 3) float32 linear RGB albedo, `material` (N,) uint8,
    `owner` (N,) int32: the track id, -1 for what belongs to no actor."""

    triangles: Floats32
    colour: Floats32
    material: NDArray[np.uint8]
    owner: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.triangles)

    def select(self, keep: NDArray[np.bool_]) -> Mesh:
        return Mesh(self.triangles[keep], self.colour[keep], self.material[keep], self.owner[keep])

    def owned_by(self, track_id: int) -> Mesh:
        return Mesh(self.triangles, self.colour, self.material, np.full(len(self), track_id, np.int32))

    def placed(self, x: float, y: float, z: float, yaw: float) -> Mesh:
        """Rotated by yaw about z, then moved."""
        c, s = np.cos(yaw), np.sin(yaw)
        rotation = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)
        moved = self.triangles @ rotation + np.array([x, y, z], np.float32)
        return Mesh(moved, self.colour, self.material, self.owner)


def patch(triangles: ArrayLike, colour: Colour, material: Material) -> Mesh:
    """A mesh of one colour and material."""
    t = np.asarray(triangles, np.float32).reshape(-1, 3, 3)
    n = len(t)
    return Mesh(
        t, np.tile(np.array(colour, np.float32), (n, 1)), np.full(n, material, np.uint8), np.full(n, -1, np.int32)
    )


def join(meshes: list[Mesh]) -> Mesh:
    if not meshes:
        return patch(np.zeros((0, 3, 3)), (0, 0, 0), Material.MATTE)
    return Mesh(
        np.concatenate([m.triangles for m in meshes]),
        np.concatenate([m.colour for m in meshes]),
        np.concatenate([m.material for m in meshes]),
        np.concatenate([m.owner for m in meshes]),
    )


_CORNERS = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
_BOX = np.array(
    [
        (0, 1, 3),
        (0, 3, 2),
        (4, 6, 7),
        (4, 7, 5),
        (0, 4, 5),
        (0, 5, 1),
        (2, 3, 7),
        (2, 7, 6),
        (1, 5, 7),
        (1, 7, 3),
        (0, 2, 6),
        (0, 6, 4),
    ]
)


def box(
    centre: tuple[float, float, float], size: tuple[float, float, float], colour: Colour, material: Material
) -> Mesh:
    return patch((_CORNERS * size + centre)[_BOX], colour, material)


def span(low: tuple[float, float, float], high: tuple[float, float, float], colour: Colour, material: Material) -> Mesh:
    """The axis-aligned box between two corners."""
    a, b = np.array(low), np.array(high)
    return patch((_CORNERS * (b - a) + (a + b) / 2)[_BOX], colour, material)


def bar(start: ArrayLike, end: ArrayLike, thickness: float, colour: Colour, material: Material) -> Mesh:
    """A square beam between two points."""
    a, b = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    along = b - a
    ux, uy, uz = (along / np.sqrt(along @ along)).tolist()
    # Two unit vectors across the beam: the first level, unless the beam is upright.
    flat = np.hypot(ux, uy)
    side = np.array([uy, -ux, 0.0]) / flat if flat > 0.4 else np.array([uz, 0.0, -ux]) / np.hypot(uz, ux)
    sx, sy, sz = side.tolist()
    other = np.array([uy * sz - uz * sy, uz * sx - ux * sz, ux * sy - uy * sx])
    frame = np.stack([along, side * thickness, other * thickness])
    return patch((_CORNERS @ frame + (a + b) / 2)[_BOX], colour, material)


def prism(profile: ArrayLike, half_width: ArrayLike, colour: Colour, material: Material) -> Mesh:
    """A convex side profile (n, 2) of x, z widened to y = +-half_width (scalar or one per profile point)."""
    p = np.asarray(profile, dtype=float)
    n = len(p)
    w = np.broadcast_to(np.asarray(half_width, dtype=float), (n,))
    left = np.column_stack([p[:, 0], w, p[:, 1]])
    right = np.column_stack([p[:, 0], -w, p[:, 1]])
    fan = [(0, i, i + 1) for i in range(1, n - 1)]
    faces = [left[list(f)] for f in fan] + [right[list(f)] for f in fan]
    for i in range(n):
        j = (i + 1) % n
        faces += [np.stack([left[i], left[j], right[j]]), np.stack([left[i], right[j], right[i]])]
    return patch(np.array(faces), colour, material)


def column(
    centre: tuple[float, float],
    z: tuple[float, float],
    radius: tuple[float, float],
    sides: int,
    colour: Colour,
    material: Material,
) -> Mesh:
    """A vertical cone frustum with `radius` at its bottom and top, closed above."""
    a = np.arange(sides + 1) * 2 * np.pi / sides
    ring = np.column_stack([np.cos(a), np.sin(a), np.zeros(sides + 1)])
    base = np.array([centre[0], centre[1], 0.0])
    low, high = base + ring * radius[0] + (0, 0, z[0]), base + ring * radius[1] + (0, 0, z[1])
    top = np.tile(base + (0, 0, z[1]), (sides, 1))
    walls = [np.stack([low[:-1], low[1:], high[1:]], 1), np.stack([low[:-1], high[1:], high[:-1]], 1)]
    caps = [np.stack([high[:-1], high[1:], top], 1)] if radius[1] > 0.01 else []
    return patch(np.concatenate(walls + caps), colour, material)


def quad(corners: ArrayLike, colour: Colour, material: Material) -> Mesh:
    """A flat four-sided sheet (4, 3), seen from both sides."""
    a, b, c, d = np.asarray(corners, dtype=float)
    return patch(np.stack([np.stack([a, b, c]), np.stack([a, c, d])]), colour, material)


def panel(
    centre: tuple[float, float, float], size: tuple[float, float, float], colour: Colour, material: Material
) -> Mesh:
    """A rectangle whose size is 0 along one axis: plates, lettering, joints, at a sixth of a box's triangles."""
    flat = size.index(0.0)
    u, v = np.zeros(3), np.zeros(3)
    u[flat - 2], v[flat - 1] = size[flat - 2] / 2, size[flat - 1] / 2
    return quad(np.array([-u - v, u - v, u + v, v - u]) + centre, colour, material)


def wheel(x: float, y: float, radius: float, width: float, sides: int = 9) -> Mesh:
    """A tyre about the y axis standing on z = 0, its inner face at y - sign(y) width and a pale hub on the outer."""
    a = np.arange(sides + 1) * 2 * np.pi / sides
    rim = np.column_stack([x + radius * np.cos(a), np.zeros(sides + 1), radius + radius * np.sin(a)])
    outer, inner = rim + (0, y, 0), rim + (0, y - np.sign(y) * width, 0)
    hub = np.array([x, y, radius])
    hub_rim = hub + (outer - hub) * 0.6 + (0, np.sign(y) * 0.004, 0)
    tyre = np.concatenate(
        [
            np.stack([outer[:-1], outer[1:], inner[1:]], 1),
            np.stack([outer[:-1], inner[1:], inner[:-1]], 1),
            np.stack([outer[:-1], outer[1:], np.tile(hub, (sides, 1))], 1),
        ]
    )
    disc = np.stack([hub_rim[:-1], hub_rim[1:], np.tile(hub + (0, np.sign(y) * 0.004, 0), (sides, 1))], 1)
    return join([patch(tyre, (0.02, 0.02, 0.022), Material.RUBBER), patch(disc, (0.35, 0.35, 0.37), Material.METAL)])


def ring(x: float, radius: float, thickness: float, colour: Colour, sides: int = 12) -> Mesh:
    """A thin upright hoop (a bicycle's wheel) in the plane y = 0, standing on z = 0, seen from both sides."""
    a = np.arange(sides + 1) * 2 * np.pi / sides
    unit = np.column_stack([np.cos(a), np.zeros(sides + 1), np.sin(a)])
    centre = np.array([x, 0.0, radius])
    outer, inner = centre + unit * radius, centre + unit * (radius - thickness)
    flat = np.concatenate(
        [np.stack([outer[:-1], outer[1:], inner[1:]], 1), np.stack([outer[:-1], inner[1:], inner[:-1]], 1)]
    )
    out = (0.0, thickness / 2, 0.0)
    tread = np.concatenate(
        [
            np.stack([outer[:-1] - out, outer[1:] - out, outer[1:] + out], 1),
            np.stack([outer[:-1] - out, outer[1:] + out, outer[:-1] + out], 1),
        ]
    )
    return patch(np.concatenate([flat, tread]), colour, Material.RUBBER)
