"""What vehicles share: lamps, wheels, mirrors, number plates, and the joints of doors."""

from __future__ import annotations

import numpy as np

from training.world.city.paints import BLACK, DARK, GLASS, GREY, WHITE
from training.world.mesh import Colour, Material, Mesh, box, join, panel, patch, prism, span, tinted

RIMS: tuple[Colour, ...] = ((0.45, 0.45, 0.47), (0.30, 0.30, 0.31), (0.06, 0.06, 0.06), (0.60, 0.60, 0.60))


def wheel(x: float, y: float, radius: float, width: float, sides: int = 10, rim: Colour = (0.35, 0.35, 0.37)) -> Mesh:
    """A tyre about the y axis standing on z = 0, its inner face at y - sign(y) width, a spoked rim outside."""
    a = np.arange(sides + 1) * 2 * np.pi / sides
    outer = np.column_stack([x + radius * np.cos(a), np.full(sides + 1, y), radius + radius * np.sin(a)])
    inner = outer - (0, np.sign(y) * width, 0)
    hub = np.array([x, y, radius])
    out = (0, np.sign(y) * 0.004, 0)
    hub_rim = hub + (outer - hub) * 0.66 + out
    tyre = np.concatenate(
        [
            np.stack([outer[:-1], outer[1:], inner[1:]], 1),
            np.stack([outer[:-1], inner[1:], inner[:-1]], 1),
            np.stack([outer[:-1], outer[1:], np.tile(hub, (sides, 1))], 1),
        ]
    )
    disc = np.stack([hub_rim[:-1], hub_rim[1:], np.tile(hub + out, (sides, 1))], 1)
    return join(
        [
            patch(tyre, (0.02, 0.02, 0.022), Material.RUBBER),
            patch(disc[::2], rim, Material.METAL),  # spokes, and the gaps between them
            patch(disc[1::2], tinted(rim, 0.35), Material.METAL),
        ]
    )


def lamps(ln: float, w: float, front_z: float, rear_z: float, size: float = 0.16, tall: float = 1.3) -> list[Mesh]:
    """Head and tail lights as small boxes that just show at the body's ends; tail ones are `tall` times as high."""
    found = []
    for side in (-1, 1):
        y = side * (w / 2 - 0.05 - size * 0.75)
        found.append(box((ln / 2 - 0.05, y, front_z), (0.1, size * 1.5, size), (0.8, 0.8, 0.75), Material.HEADLIGHT))
        found.append(
            box((-ln / 2 + 0.04, y, rear_z), (0.08, size * 1.2, size * tall), (0.5, 0.02, 0.02), Material.TAILLIGHT)
        )
    return found


def wheels(xs: list[float], w: float, radius: float, width: float = 0.24, rim: Colour = RIMS[0]) -> list[Mesh]:
    return [wheel(x, side * w / 2 * 0.985, radius, width, rim=rim) for x in xs for side in (-1, 1)]


def arches(xs: list[float], y: float, radius: float) -> list[Mesh]:
    """The dark hollows about the wheels, as half discs on either side of the body at +-y."""
    a = np.linspace(0, np.pi, 6)
    fans = []
    for x in xs:
        for side in (-1, 1):
            edge = np.column_stack([x + radius * 1.2 * np.cos(a), np.full(6, side * y), radius * (1 + 1.2 * np.sin(a))])
            middle = np.tile([x, side * y, radius * 0.8], (5, 1))
            fans.append(np.stack([edge[:-1], edge[1:], middle], 1))
    return [patch(np.concatenate(fans), DARK, Material.MATTE)]


def mirrors(x: float, y: float, z: float, size: tuple[float, float, float], colour: Colour) -> list[Mesh]:
    return [box((x, side * y, z), size, colour, Material.PAINT) for side in (-1, 1)]


def plates(ln: float, z: float) -> list[Mesh]:
    """Number plates; the body must end a little short of the box's ends."""
    return [panel((side * ln * 0.4995, 0.0, z), (0.0, 0.52, 0.12), WHITE, Material.REFLECTIVE) for side in (-1, 1)]


def logo(
    x: tuple[float, float], y: float, z: tuple[float, float], colour: Colour, rng: np.random.Generator
) -> list[Mesh]:
    """Lettering on both sides of a box body between x and z: a field or a stripe, and marks like words on it."""
    (x0, x1), (z0, z1) = x, z
    ln, h = x1 - x0, z1 - z0
    kind = rng.integers(3)
    middle, tall = (z0 + h * rng.uniform(0.35, 0.65), h * rng.uniform(0.2, 0.45))
    marks = rng.uniform(0.02, 0.75, 3)
    ink: Colour = (float(marks[0]), float(marks[1]), float(marks[2]))
    parts = []
    wide = ln * (0.98 if kind == 0 else rng.uniform(0.35, 0.6))
    letters = int(rng.integers(3, 7))
    for side in (-1, 1):
        parts.append(panel(((x0 + x1) / 2, side * (y + 0.004), middle), (wide, 0.0, tall), colour, Material.SIGN))
        if kind < 2:
            step = min(wide, ln * 0.6) / letters
            for k in range(letters):
                at = (x0 + x1) / 2 + (k - (letters - 1) / 2) * step
                size = (step * (0.45 if k % 2 else 0.7), 0.0, tall * (0.5 if k % 3 else 0.65))
                parts.append(panel((at, side * (y + 0.008), middle), size, ink, Material.SIGN))
    return parts


def cab(ln: float, w: float, h: float, length: float, paint: Colour) -> list[Mesh]:
    """A forward-control lorry cabin whose front is at ln / 2."""
    back, front = ln / 2 - length, ln / 2
    shell = prism(
        [(back, 0.45), (back, h), (front - 0.25, h), (front - 0.02, h * 0.55), (front - 0.02, 0.45)],
        w * 0.48,
        paint,
        Material.PAINT,
    )
    screen = prism(
        [(front - 0.02, h * 0.57), (front, h * 0.57), (front - 0.2, h * 0.93), (front - 0.26, h * 0.93)],
        w * 0.44,
        GLASS,
        Material.GLASS,
    )
    parts = [shell, screen]
    for s in (-1, 1):
        middle = front - length * 0.42
        parts.append(panel((middle, s * w * 0.483, h * 0.73), (length * 0.5, 0.0, h * 0.27), GLASS, Material.GLASS))
        parts.append(panel((middle, s * w * 0.482, h * 0.36), (0.025, 0.0, h * 0.44), DARK, Material.MATTE))
        parts.append(panel((middle + 0.35, s * w * 0.482, h * 0.2), (0.4, 0.0, 0.25), BLACK, Material.MATTE))  # steps
    grille = panel((front - 0.01, 0, h * 0.38), (0.0, w * 0.6, h * 0.16), BLACK, Material.MATTE)
    visor = span((front - 0.3, -w * 0.4, h * 0.94), (front - 0.12, w * 0.4, h * 0.965), BLACK, Material.MATTE)
    bumper = box((front - 0.12, 0, 0.5), (0.24, w * 0.94, 0.3), GREY, Material.MATTE)
    return [*parts, grille, visor, bumper, *mirrors(front - 0.2, w * 0.485, h * 0.72, (0.08, w * 0.028, 0.4), BLACK)]


def lying_cylinder(x: tuple[float, float], z: tuple[float, float], half_width: float, colour: Colour) -> Mesh:
    """A drum along x, elliptic between the heights z."""
    a = np.arange(10) * 2 * np.pi / 10
    middle, half = (z[0] + z[1]) / 2, (z[1] - z[0]) / 2
    drum = prism(np.column_stack([np.cos(a) * half_width, middle + np.sin(a) * half]), 1.0, colour, Material.METAL)
    t = drum.triangles.copy()  # prism runs along y; this one along x
    t[..., 0], t[..., 1] = np.where(t[..., 1] > 0, x[1], x[0]), drum.triangles[..., 0]
    return join([Mesh(t, drum.colour, drum.material, drum.owner)])
