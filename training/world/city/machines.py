"""The bodies of construction vehicles: excavator, wheel loader, roller and mobile crane."""

from __future__ import annotations

import numpy as np

from training.world.city.paints import BLACK, GLASS, GREY, ORANGE, RED, WHITE, YELLOW, dirty
from training.world.city.vehicle_parts import cab, lamps, wheels
from training.world.mesh import Colour, Material, Mesh, bar, box, panel, prism, span

PAINTS: tuple[Colour, ...] = (YELLOW, YELLOW, YELLOW, (0.7, 0.22, 0.03), (0.72, 0.60, 0.05), (0.10, 0.30, 0.16), WHITE)


def construction_vehicle(ln: float, w: float, h: float, kind: str, rng: np.random.Generator) -> list[Mesh]:
    paint = dirty(PAINTS[rng.integers(len(PAINTS))], rng)
    build = {"excavator": _excavator, "loader": _loader, "roller": _roller, "crane": _crane}
    return build[kind](ln, w, h, paint, rng)


def _tracks(ln: float, w: float, height: float) -> list[Mesh]:
    side = [(-0.5, 0.5), (-0.42, 1), (0.42, 1), (0.5, 0.5), (0.42, 0), (-0.42, 0)]
    profile = [(x * ln, z * height) for x, z in side]
    track = prism(profile, w * 0.11, BLACK, Material.RUBBER)
    return [track.placed(0, s * w * 0.39, 0, 0) for s in (-1, 1)]


def _cabin(low: tuple[float, float, float], high: tuple[float, float, float], paint: Colour) -> list[Mesh]:
    """A glazed driver's cabin: panes all round between a sill, corner posts and a roof."""
    (x0, y0, z0), (x1, y1, z1) = low, high
    parts = [span((x0 + 0.04, y0 + 0.04, z0), (x1 - 0.04, y1 - 0.04, z1 - 0.05), GLASS, Material.GLASS)]
    parts.append(span((x0, y0, z0), (x1, y1, z0 + (z1 - z0) * 0.28), paint, Material.PAINT))
    parts.append(span((x0, y0, z1 - 0.1), (x1, y1, z1), paint, Material.PAINT))
    corners = [(x, y) for x in (x0 + 0.04, x1 - 0.04) for y in (y0 + 0.04, y1 - 0.04)]
    return parts + [bar((x, y, z0), (x, y, z1), 0.09, paint, Material.PAINT) for x, y in corners]


def _excavator(ln: float, w: float, h: float, paint: Colour, rng: np.random.Generator) -> list[Mesh]:
    """Tracks, house at the rear, boom, stick and bucket in front."""
    under = [t.placed(-ln * 0.2, 0, 0, 0) for t in _tracks(ln * 0.55, w, 0.8)]
    house = span((-ln * 0.48, -w * 0.42, 0.95), (-ln * 0.02, w * 0.42, 0.95 + h * 0.33), paint, Material.PAINT)
    counter = span((-ln * 0.5, -w * 0.45, 0.9), (-ln * 0.38, w * 0.45, 0.9 + h * 0.36), BLACK, Material.METAL)
    cabin = _cabin((-ln * 0.17, w * 0.05, 0.95), (ln * 0.06, w * 0.42, h), paint)
    base, elbow = (-ln * 0.02, -w * 0.1, 1.3), (ln * float(rng.uniform(0.18, 0.27)), -w * 0.1, h * 0.92)
    wrist = (ln * 0.45, -w * 0.1, h * float(rng.uniform(0.3, 0.5)))
    arm = [bar(base, elbow, 0.42, paint, Material.PAINT), bar(elbow, wrist, 0.32, paint, Material.PAINT)]
    ram = bar((ln * 0.02, -w * 0.1, 1.2), (elbow[0] * 0.7, -w * 0.1, h * 0.7), 0.14, GREY, Material.METAL)
    bucket = prism(
        [(ln * 0.36, 0.1), (ln * 0.36, h * 0.3), (ln * 0.47, h * 0.42), (ln * 0.5, h * 0.15)],
        w * 0.22,
        GREY,
        Material.METAL,
    ).placed(0, -w * 0.1, 0, 0)
    return [*under, house, counter, *cabin, *arm, ram, bucket]


def _loader(ln: float, w: float, h: float, paint: Colour, rng: np.random.Generator) -> list[Mesh]:
    """Big wheels, engine at the rear, cabin in the middle, arms and a wide bucket in front."""
    engine = span((-ln * 0.49, -w * 0.32, 0.7), (-ln * 0.08, w * 0.32, h * 0.62), paint, Material.PAINT)
    grille = panel((-ln * 0.495, 0, h * 0.42), (0.0, w * 0.5, h * 0.25), BLACK, Material.MATTE)
    front = span((-ln * 0.08, -w * 0.25, 0.6), (ln * 0.24, w * 0.25, h * 0.45), paint, Material.PAINT)
    cabin = _cabin((-ln * 0.17, -w * 0.29, h * 0.5), (ln * 0.07, w * 0.29, h), paint)
    lift = float(rng.uniform(0.0, 0.8))
    arms = [
        bar((ln * 0.02, s * w * 0.2, h * 0.5), (ln * 0.4, s * w * 0.2, 0.7 + lift), 0.25, paint, Material.PAINT)
        for s in (-1, 1)
    ]
    side = [(ln * 0.36, 0.15), (ln * 0.35, 1.2), (ln * 0.42, 1.25), (ln * 0.5, 0.12)]
    bucket = prism([(x, z + lift) for x, z in side], w * 0.5, GREY, Material.METAL)
    return [engine, grille, front, *cabin, *arms, bucket, *wheels([-0.27 * ln, 0.2 * ln], w * 0.98, 0.7, 0.5, paint)]


def _roller(ln: float, w: float, h: float, paint: Colour, rng: np.random.Generator) -> list[Mesh]:
    """Two steel drums as wide as the machine, a cabin or a canopy between them."""
    radius = min(0.62, 0.14 * ln)
    drums = [
        part
        for x in (-ln / 2 + radius + 0.02, ln / 2 - radius - 0.02)
        for part in wheels([x], w * 0.86, radius, w * 0.42, GREY)
    ]
    hull = span((-ln * 0.42, -w * 0.4, radius * 1.3), (ln * 0.42, w * 0.4, h * 0.5), paint, Material.PAINT)
    yokes = [
        panel((x * ln, s * w * 0.47, radius * 1.2), (radius * 0.7, 0.0, radius * 1.3), paint, Material.PAINT)
        for x in (-0.36, 0.36)
        for s in (-1, 1)
    ]
    return [*drums, hull, *yokes, *_cabin((-ln * 0.16, -w * 0.38, h * 0.48), (ln * 0.18, w * 0.38, h), paint)]


def _crane(ln: float, w: float, h: float, paint: Colour, rng: np.random.Generator) -> list[Mesh]:
    """A mobile crane on the road: a low cabin in front, the folded boom over its whole length, outriggers."""
    parts = cab(ln, w, h * 0.62, 1.7, paint)
    parts.append(span((-ln / 2 + 0.1, -w * 0.47, 0.75), (ln / 2 - 1.8, w * 0.47, 1.35), paint, Material.PAINT))
    parts.append(span((-ln * 0.3, -w * 0.4, 1.35), (-ln * 0.02, w * 0.1, h * 0.72), paint, Material.PAINT))
    parts += _cabin((-ln * 0.06, w * 0.12, 1.35), (ln * 0.12, w * 0.44, h * 0.8), paint)
    boom = (-ln * 0.44, -w * 0.1, h * 0.93), (ln / 2 - 0.2, -w * 0.1, h * 0.72)
    parts.append(bar(*boom, 0.42, paint if rng.random() < 0.6 else WHITE, Material.PAINT))
    parts.append(bar((-ln * 0.1, -w * 0.1, 1.4), (ln * 0.12, -w * 0.1, h * 0.78), 0.2, GREY, Material.METAL))
    parts.append(box((-ln * 0.45, 0, 1.6), (0.7, w * 0.8, 0.9), BLACK, Material.METAL))  # counterweight
    for s in (-1, 1):
        for x in (-0.45, 0.12):
            parts.append(box((x * ln, s * w * 0.46, 0.75), (0.4, w * 0.08, 0.5), RED, Material.REFLECTIVE))
    parts.append(panel((-ln * 0.16, -w * 0.405, h * 0.5), (ln * 0.2, 0.0, 0.4), ORANGE, Material.SIGN))
    axles = [-0.36 * ln, -0.22 * ln, 0.1 * ln, 0.3 * ln]
    return [*parts, *lamps(ln, w, 0.62, 0.72), *wheels(axles, w, 0.55, 0.34)]
