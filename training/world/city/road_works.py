"""Cones, posts, drums and barriers: small meshes about the box's gravity centre."""

from __future__ import annotations

import numpy as np

from training.world.city.bodies import kind_of
from training.world.city.paints import BLACK, GREY, ORANGE, RED, WHITE, YELLOW
from training.world.mesh import Colour, Material, Mesh, box, column, join, panel, prism, span


def traffic_cone(size_lwh: tuple[float, float, float]) -> Mesh:
    """A cone, a post or a drum, whichever is as slender; the wider cones have two bands, the others one."""
    ln, w, h = size_lwh
    half = min(ln, w) / 2
    kind = kind_of("traffic_cone", size_lwh, np.random.default_rng(0))
    foot = span((-half, -half, 0), (half, half, 0.05), BLACK, Material.RUBBER)
    if kind == "cone":
        two = half > 0.19
        cuts = np.array([0.0, 0.35, 0.55, 0.7, 0.85, 1.0] if two else [0.0, 0.55, 0.8, 1.0]) * h
        cuts[0] = 0.05
        radii = half * 0.78 * (1 - 0.85 * cuts / h)
    else:
        cuts = np.array([0.05, 0.3, 0.45, 0.6, 0.75, 1.0]) * h
        radii = np.full(6, half * (0.4 if kind == "post" else 0.9))
    bands = [
        column(
            (0, 0),
            (cuts[i], cuts[i + 1]),
            (radii[i], radii[i + 1]),
            8,
            ORANGE if i % 2 == 0 else WHITE,
            Material.MATTE if i % 2 == 0 else Material.REFLECTIVE,
        )
        for i in range(len(cuts) - 1)
    ]
    return join([foot, *bands]).placed(0, 0, -h / 2, 0)


def barrier(size_lwh: tuple[float, float, float], style: int) -> Mesh:
    """A road barrier whose long side is its width (y), as annotated in nuScenes.

    Concrete, water-filled in red, orange or white, striped planks on posts, or a fence of tubes.
    """
    ln, w, h = size_lwh
    kind = style % 5
    if kind == 0:
        parts = _wall(ln, w, h, (0.45, 0.44, 0.42))
        parts.append(panel((ln * 0.212, 0, h * 0.75), (0.0, w * 0.6, h * 0.14), ORANGE, Material.REFLECTIVE))
        parts.append(panel((-ln * 0.212, 0, h * 0.75), (0.0, w * 0.6, h * 0.14), ORANGE, Material.REFLECTIVE))
    elif kind < 3:
        colour = (ORANGE, WHITE, RED)[style // 5 % 3]
        parts = _wall(ln, w, h, colour)
        for s in (-1, 1):  # moulded hollows
            parts += [
                panel((s * ln * 0.213, y * w, h * 0.7), (0.0, w * 0.2, h * 0.2), GREY, Material.MATTE)
                for y in (-0.25, 0.25)
            ]
    elif kind == 3:
        pair: tuple[Colour, Colour] = (RED, WHITE) if style // 5 % 3 else (BLACK, YELLOW)
        parts = []
        for low, high in ((0.42, 0.62), (0.76, 1.0)):
            for k in range(8):
                y = -w / 2 + k * w / 8
                low_corner, high_corner = (-0.04, y, low * h), (0.04, y + w / 8, high * h)
                parts.append(span(low_corner, high_corner, pair[k % 2], Material.REFLECTIVE))
        parts += _feet(ln, w, h, 0.9)
    else:
        parts = [box((0, 0, z * h), (0.05, w * 0.98, 0.05), GREY, Material.METAL) for z in (0.2, 0.97)]
        for y in np.linspace(-0.47, 0.47, 9):
            parts.append(panel((0, float(y) * w, h * 0.58), (0.0, 0.035, h * 0.78), GREY, Material.METAL))
        parts += _feet(ln, w, h, 0.98)
    return join(parts).placed(0, 0, -h / 2, 0)


def _wall(ln: float, w: float, h: float, colour: Colour) -> list[Mesh]:
    """The profile of a Jersey barrier: a foot, a slope, an upright part."""
    side = [(-0.5, 0.0), (-0.5, 0.1), (-0.3, 0.4), (-0.21, 1.0), (0.21, 1.0), (0.3, 0.4), (0.5, 0.1), (0.5, 0.0)]
    # The profile is not convex, so it is put together from two that are.
    lower = [side[i] for i in (0, 1, 2, 5, 6, 7)]
    upper = [side[i] for i in (2, 3, 4, 5)]
    return [prism([(x * ln, z * h) for x, z in p], w / 2, colour, Material.MATTE) for p in (lower, upper)]


def _feet(ln: float, w: float, h: float, tall: float) -> list[Mesh]:
    parts = []
    for s in (-1, 1):
        parts.append(box((0, s * w * 0.4, h * tall / 2), (0.05, 0.08, h * tall), GREY, Material.METAL))
        parts.append(box((0, s * w * 0.4, 0.04), (ln, 0.1, 0.08), BLACK, Material.RUBBER))
    return parts
