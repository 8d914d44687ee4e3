"""What stands about in the town and belongs to no actor: houses, trees, lamps, signs, fences and billboards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.world.mesh import Colour, Material, Mesh, any_colour, bar, box, column, join, patch, span, tinted

FACADES: tuple[Colour, ...] = (
    (0.42, 0.30, 0.22),
    (0.50, 0.46, 0.40),
    (0.35, 0.14, 0.10),
    (0.48, 0.42, 0.28),
    (0.30, 0.33, 0.36),
    (0.55, 0.53, 0.50),
    (0.22, 0.24, 0.27),
    (0.40, 0.20, 0.13),
    (0.33, 0.38, 0.30),
)
LEAVES: tuple[Colour, ...] = ((0.06, 0.13, 0.03), (0.10, 0.16, 0.04), (0.04, 0.10, 0.04), (0.20, 0.14, 0.03))
HEDGES: tuple[Colour, ...] = ((0.05, 0.11, 0.03), (0.08, 0.14, 0.04), (0.06, 0.10, 0.05))
BARK: Colour = (0.10, 0.07, 0.05)
STEEL: Colour = (0.28, 0.29, 0.30)


@dataclass(frozen=True)
class Bench:
    """A place to sit: the middle of its seat, and where those who sit on it look (rad)."""

    x: float
    y: float
    yaw: float


def bench(rng: np.random.Generator) -> Mesh:
    """A seat 0.45 m high for three, whose back is at -x."""
    wood: Colour = ((0.30, 0.18, 0.08), (0.16, 0.20, 0.12), (0.22, 0.22, 0.23))[rng.integers(3)]
    parts = [
        box((0.0, 0, 0.43), (0.42, 1.6, 0.05), wood, Material.MATTE),
        box((-0.27, 0, 0.68), (0.04, 1.6, 0.3), wood, Material.MATTE),
    ]
    for side in (-1, 1):
        parts.append(box((-0.05, side * 0.65, 0.2), (0.4, 0.06, 0.4), STEEL, Material.METAL))
    return join(parts)


def hedge(rng: np.random.Generator, length: float) -> Mesh:
    """Bushes in a row along x, cut or as they grow."""
    height, depth = rng.uniform(0.7, 1.7), rng.uniform(0.6, 1.1)
    colour = tinted(HEDGES[rng.integers(len(HEDGES))], rng.uniform(0.8, 1.3))
    if rng.random() < 0.5:
        return box((0, 0, height / 2), (length, depth, height), colour, Material.FOLIAGE)
    bushes = [
        column(
            (x, 0.0), (0.0, height * rng.uniform(0.6, 1.1)), (depth * 0.6, depth * 0.35), 6, colour, Material.FOLIAGE
        )
        for x in np.arange(-length / 2 + depth / 2, length / 2, depth * 0.9)
    ]
    return join(bushes)


def building(rng: np.random.Generator, length: float, depth: float, height: float) -> Mesh:
    colour = tinted(FACADES[rng.integers(len(FACADES))], rng.uniform(0.8, 1.2))
    parts = [span((-length / 2, -depth / 2, 0), (length / 2, depth / 2, height), colour, Material.FACADE)]
    dark: Colour = (0.14, 0.12, 0.12)
    if rng.random() < 0.4:  # a pitched roof
        ridge = height + depth * 0.3
        e = 0.4
        roof = np.array(
            [
                [
                    (-length / 2 - e, -depth / 2 - e, height),
                    (length / 2 + e, -depth / 2 - e, height),
                    (length / 2, 0, ridge),
                ],
                [(-length / 2 - e, -depth / 2 - e, height), (length / 2, 0, ridge), (-length / 2, 0, ridge)],
                [
                    (-length / 2 - e, depth / 2 + e, height),
                    (length / 2 + e, depth / 2 + e, height),
                    (length / 2, 0, ridge),
                ],
                [(-length / 2 - e, depth / 2 + e, height), (length / 2, 0, ridge), (-length / 2, 0, ridge)],
                [(-length / 2, -depth / 2, height), (-length / 2, depth / 2, height), (-length / 2, 0, ridge)],
                [(length / 2, -depth / 2, height), (length / 2, depth / 2, height), (length / 2, 0, ridge)],
            ]
        )
        tiles: Colour = (0.30, 0.10, 0.06) if rng.random() < 0.6 else dark
        parts.append(patch(roof, tiles, Material.MATTE))
    else:
        parts.append(box((0, 0, height + 0.2), (length + 0.3, depth + 0.3, 0.4), dark, Material.MATTE))
    for side in (-1, 1):  # shop fronts and doors
        if rng.random() < 0.5:
            parts.append(
                box(
                    (rng.uniform(-0.2, 0.2) * length, side * depth / 2, 1.4),
                    (length * 0.45, 0.12, 2.4),
                    (0.05, 0.06, 0.07),
                    Material.GLASS,
                )
            )
            sign = any_colour(rng, 0.03, 0.6)
            parts.append(
                box(
                    (rng.uniform(-0.2, 0.2) * length, side * (depth / 2 + 0.2), 3.0),
                    (length * 0.4, 0.5, 0.6),
                    sign,
                    Material.SIGN,
                )
            )
        parts.append(
            box(
                (rng.uniform(-0.4, 0.4) * length, side * depth / 2, 1.1),
                (1.1, 0.08, 2.2),
                any_colour(rng, 0.03, 0.3),
                Material.MATTE,
            )
        )
    return join(parts)


def tree(rng: np.random.Generator) -> Mesh:
    height = rng.uniform(4.5, 9.0)
    leaf = tinted(LEAVES[rng.integers(len(LEAVES))], rng.uniform(0.8, 1.3))
    trunk = column((0, 0), (0, height * 0.5), (0.16, 0.11), 6, BARK, Material.MATTE)
    if rng.random() < 0.3:
        crown = [column((0, 0), (1.2, height), (height * 0.2, 0.02), 8, leaf, Material.FOLIAGE)]
    else:
        crown = []
        for _ in range(4):
            r = height * rng.uniform(0.16, 0.26)
            c = rng.uniform(-0.14, 0.14, 2) * height
            z = height * rng.uniform(0.55, 0.8)
            middle = (float(c[0]), float(c[1]))
            crown.append(column(middle, (z - r, z), (r * 0.45, r), 7, leaf, Material.FOLIAGE))
            crown.append(column(middle, (z, z + r), (r, r * 0.4), 7, leaf, Material.FOLIAGE))
    return join([trunk, *crown])


def lamp_post() -> Mesh:
    """A street light whose arm reaches towards +y."""
    pole = column((0, 0), (0, 7.0), (0.10, 0.06), 6, STEEL, Material.METAL)
    arm = bar((0, 0, 6.9), (0, 1.8, 7.2), 0.08, STEEL, Material.METAL)
    return join([pole, arm, box((0, 1.9, 7.17), (0.3, 0.7, 0.12), (0.8, 0.75, 0.6), Material.LAMP)])


def signpost(rng: np.random.Generator) -> Mesh:
    """A traffic sign facing -x."""
    colour: Colour = ((0.65, 0.04, 0.04), (0.04, 0.12, 0.55), (0.75, 0.60, 0.05), (0.75, 0.75, 0.75))[rng.integers(4)]
    height = rng.uniform(2.2, 3.0)
    pole = column((0, 0), (0, height + 0.3), (0.04, 0.04), 5, STEEL, Material.METAL)
    return join([pole, box((-0.06, 0, height), (0.03, 0.65, 0.65), colour, Material.REFLECTIVE)])


def traffic_light() -> Mesh:
    pole = column((0, 0), (0, 3.4), (0.07, 0.07), 6, STEEL, Material.METAL)
    head = box((0, 0, 3.2), (0.3, 0.35, 0.95), (0.02, 0.02, 0.02), Material.MATTE)
    light = box((-0.16, 0, 3.5), (0.02, 0.22, 0.22), (0.9, 0.05, 0.03), Material.TAILLIGHT)
    return join([pole, head, light])


def billboard(rng: np.random.Generator) -> Mesh:
    board = box((0, 0, 3.6), (5.0, 0.15, 2.6), any_colour(rng, 0.05, 0.7), Material.SIGN)
    inset = box((0.4, 0, 3.7), (2.4, 0.2, 1.4), any_colour(rng, 0.05, 0.7), Material.SIGN)
    legs = [column((x, 0), (0, 2.4), (0.12, 0.12), 6, STEEL, Material.METAL) for x in (-1.6, 1.6)]
    return join([board, inset, *legs])


def fence(length: float, rng: np.random.Generator) -> Mesh:
    tall = rng.random() < 0.5
    colour: Colour = (0.25, 0.16, 0.09) if tall else (0.5, 0.5, 0.5)
    posts = [
        box((x, 0, 0.6), (0.09, 0.09, 1.2), colour, Material.MATTE) for x in np.arange(-length / 2, length / 2, 2.0)
    ]
    if tall:
        posts.append(box((0, 0, 0.65), (length, 0.04, 1.1), colour, Material.MATTE))
    else:
        posts += [box((0, 0, z), (length, 0.05, 0.12), colour, Material.METAL) for z in (0.5, 0.9)]
    return join(posts)
