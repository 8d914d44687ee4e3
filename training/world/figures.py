"""People, cycles, cones and barriers: small meshes about the box's gravity centre, with limbs that swing."""

from __future__ import annotations

import numpy as np

from training.world.mesh import Colour, Material, Mesh, bar, box, column, join, ring, span, wheel
from training.world.shapes import BLACK, GREY, WHITE

CLOTHES: tuple[Colour, ...] = (
    (0.05, 0.05, 0.07),
    (0.50, 0.06, 0.06),
    (0.08, 0.16, 0.45),
    (0.70, 0.70, 0.68),
    (0.60, 0.45, 0.05),
    (0.10, 0.35, 0.15),
    (0.30, 0.30, 0.32),
    (0.35, 0.12, 0.40),
    (0.75, 0.35, 0.25),
    (0.10, 0.40, 0.45),
)
TROUSERS: tuple[Colour, ...] = ((0.04, 0.05, 0.09), (0.06, 0.08, 0.2), (0.3, 0.25, 0.18), (0.03, 0.03, 0.03))
SKIN: tuple[Colour, ...] = ((0.55, 0.35, 0.25), (0.35, 0.20, 0.13), (0.12, 0.07, 0.05), (0.6, 0.42, 0.32))
HI_VIS: Colour = (0.75, 0.75, 0.03)
ORANGE: Colour = (0.85, 0.19, 0.02)
RED: Colour = (0.65, 0.03, 0.03)
STRIDE_M = 0.75
PEDAL_TURN_M = 5.0  # ridden for one turn of the pedals


def pedestrian(size_lwh: tuple[float, float, float], style: int, walked_m: float) -> Mesh:
    """A person facing +x; legs and arms swing with the distance walked, at standstill they hang."""
    ln, w, h = size_lwh
    rng = np.random.default_rng(style)
    top, trousers = CLOTHES[rng.integers(len(CLOTHES))], TROUSERS[rng.integers(len(TROUSERS))]
    skin, hair = SKIN[rng.integers(len(SKIN))], (BLACK, (0.12, 0.06, 0.03), (0.4, 0.3, 0.12))[rng.integers(3)]
    top = HI_VIS if rng.random() < 0.12 else top
    skirt, bag = rng.random() < 0.2, rng.random() < 0.35
    hip, shoulder = 0.50 * h, 0.82 * h
    swing = np.sin(walked_m / STRIDE_M * np.pi) * (ln / 2 - 0.11)
    parts = [
        span((-0.13 * h * 0.6, -w * 0.27, hip - 0.05), (0.13 * h * 0.6, w * 0.27, shoulder), top, Material.CLOTH),
        column((0.0, 0.0), (0.86 * h, h), (0.062 * h, 0.05 * h), 6, skin, Material.CLOTH),
        column((-0.01, 0.0), (0.955 * h, h), (0.068 * h, 0.05 * h), 6, hair, Material.CLOTH),
        column((0.0, 0.0), (shoulder, 0.87 * h), (0.035 * h, 0.035 * h), 5, skin, Material.CLOTH),
    ]
    for side, phase in ((-1, 1.0), (1, -1.0)):
        foot, knee = swing * phase, swing * phase * 0.5 + 0.03
        y = side * w * 0.14
        parts.append(bar((0, y, hip), (knee, y, hip * 0.52), 0.16, trousers, Material.CLOTH))
        parts.append(bar((knee, y, hip * 0.52), (foot, y, 0.06), 0.12, trousers, Material.CLOTH))
        parts.append(box((foot + 0.02, y, 0.04), (0.11, 0.1, 0.08), BLACK, Material.RUBBER))
        hand, y_arm = -swing * phase * 0.75, side * w * 0.38
        parts.append(bar((0, y_arm, shoulder), (hand * 0.4, y_arm, 0.62 * h), 0.1, top, Material.CLOTH))
        parts.append(bar((hand * 0.4, y_arm, 0.62 * h), (hand, y_arm, 0.47 * h), 0.08, skin, Material.CLOTH))
    if skirt:
        parts.append(column((0, 0), (0.28 * h, hip + 0.05), (w * 0.34, w * 0.22), 7, top, Material.CLOTH))
    if bag:
        parts.append(box((-0.13 * h, 0, 0.68 * h), (0.1 * h, w * 0.4, 0.2 * h), GREY, Material.CLOTH))
    return join(parts).placed(0, 0, -h / 2, 0)


def _rider(
    h: float,
    w: float,
    seat: tuple[float, float],
    bars: tuple[float, float],
    pedal: float,
    turn: float,
    rng: np.random.Generator,
    helmet: bool,
) -> list[Mesh]:
    """A person on a cycle: from the seat (x, z) leaning to the handlebars (x, z), feet about (pedal x, 0.3)."""
    top, trousers = CLOTHES[rng.integers(len(CLOTHES))], TROUSERS[rng.integers(len(TROUSERS))]
    skin = SKIN[rng.integers(len(SKIN))]
    neck = np.array([seat[0] + 0.22, 0.0, h - 0.3])
    hip = np.array([seat[0], 0.0, seat[1] + 0.08])
    parts = [bar(hip, neck, 0.34, top, Material.CLOTH)]
    head = (neck[0] + 0.06, 0.0)
    parts.append(column(head, (h - 0.3, h), (0.10, 0.09), 6, skin, Material.CLOTH))
    cap = (BLACK, WHITE, RED, (0.05, 0.15, 0.5))[rng.integers(4)]
    low = h - 0.27 if helmet else h - 0.1
    parts.append(column((head[0] - 0.015, 0.0), (low, h), (0.125, 0.09), 7, cap, Material.PAINT))
    for s in (-1, 1):
        parts.append(bar(neck - (0, -s * 0.2, 0.06), (bars[0], s * w * 0.36, bars[1]), 0.09, top, Material.CLOTH))
        foot = np.array(
            [pedal + 0.14 * np.cos(turn + s * np.pi / 2), s * 0.13, 0.33 + 0.14 * np.sin(turn + s * np.pi / 2)]
        )
        knee = (hip + foot) / 2 + (0.2, s * 0.02, 0.08)
        parts.append(bar(hip + (0, s * 0.1, 0), knee, 0.14, trousers, Material.CLOTH))
        parts.append(bar(knee, foot, 0.11, trousers, Material.CLOTH))
        parts.append(box((foot[0] + 0.04, foot[1], foot[2]), (0.24, 0.09, 0.08), BLACK, Material.RUBBER))
    return parts


def bicycle(size_lwh: tuple[float, float, float], style: int, ridden_m: float, rider: bool) -> Mesh:
    ln, w, h = size_lwh
    rng = np.random.default_rng(style)
    frame = CLOTHES[rng.integers(1, len(CLOTHES))]
    r = 0.33
    rear, front = -ln / 2 + r, ln / 2 - r
    low, seat, head = (rear + 0.42, 0, 0.3), (rear + 0.3, 0, 0.88), (front - 0.18, 0, 0.85)
    beams = [(low, seat), (low, head), (seat, head), ((rear, 0, r), low), ((rear, 0, r), seat), ((front, 0, r), head)]
    parts = [ring(rear, r, 0.05, BLACK), ring(front, r, 0.05, BLACK)]
    parts += [bar(a, b, 0.05, frame, Material.PAINT) for a, b in beams]
    bars_z = min(1.0, h - 0.05)
    parts.append(bar(head, (head[0], 0, bars_z), 0.04, GREY, Material.METAL))
    parts.append(box((head[0] + 0.03, 0, bars_z), (0.05, w * 0.95, 0.05), BLACK, Material.RUBBER))
    parts.append(box((seat[0], 0, 0.92), (0.25, 0.14, 0.07), BLACK, Material.RUBBER))
    parts.append(box((rear - 0.05, 0, 0.7), (0.05, 0.08, 0.08), RED, Material.TAILLIGHT))
    if rider:
        parts += _rider(
            h,
            w,
            (seat[0], 0.92),
            (head[0], bars_z),
            low[0],
            ridden_m / PEDAL_TURN_M * 2 * np.pi,
            rng,
            rng.random() < 0.5,
        )
    return join(parts).placed(0, 0, -h / 2, 0)


def motorcycle(size_lwh: tuple[float, float, float], style: int, rider: bool) -> Mesh:
    ln, w, h = size_lwh
    rng = np.random.default_rng(style)
    paint = CLOTHES[rng.integers(len(CLOTHES))]
    r = 0.32
    rear, front = -ln / 2 + r, ln / 2 - r
    scooter = rng.random() < 0.4
    parts = [wheel(x, s * 0.075, r if not scooter else 0.25, 0.07, 10) for x in (rear, front) for s in (-1, 1)]
    parts.append(
        span((rear + 0.2, -0.16, 0.28), (front - 0.35, 0.16, 0.62), GREY if not scooter else paint, Material.METAL)
    )
    parts.append(bar((rear - 0.12, 0, 0.82), (rear + 0.65, 0, 0.76), 0.24, BLACK, Material.RUBBER))
    parts.append(span((-0.02, -0.17, 0.6), (front - 0.4, 0.17, 0.95), paint, Material.PAINT))
    parts.append(span((rear - 0.15, -0.14, 0.55), (rear + 0.3, 0.14, 0.74), paint, Material.PAINT))
    bars_z = min(1.05, h - 0.1)
    parts.append(bar((front, 0, r), (front - 0.28, 0, bars_z), 0.12, GREY, Material.METAL))
    parts.append(box((front - 0.28, 0, bars_z), (0.08, w * 0.95, 0.06), BLACK, Material.RUBBER))
    parts.append(box((front - 0.1, 0, 0.83), (0.16, 0.2, 0.2), (0.8, 0.8, 0.75), Material.HEADLIGHT))
    parts.append(box((rear - 0.2, 0, 0.68), (0.06, 0.18, 0.1), RED, Material.TAILLIGHT))
    if scooter:
        parts.append(bar((front - 0.3, 0, 0.3), (front - 0.22, 0, bars_z), 0.36, paint, Material.PAINT))
    if rider:
        parts += _rider(h, w, (rear + 0.35, 0.84), (front - 0.28, bars_z), rear + 0.6, 0.3, rng, True)
    return join(parts).placed(0, 0, -h / 2, 0)


def traffic_cone(size_lwh: tuple[float, float, float]) -> Mesh:
    ln, w, h = size_lwh
    half = min(ln, w) / 2
    foot = span((-half, -half, 0), (half, half, 0.05), BLACK, Material.RUBBER)
    cuts = np.array([0.05, 0.35, 0.55, 0.7, 0.85, 1.0]) * h
    cuts[0] = 0.05
    radii = half * 0.78 * (1 - 0.85 * cuts / h)
    bands = [
        column(
            (0, 0),
            (cuts[i], cuts[i + 1]),
            (radii[i], radii[i + 1]),
            8,
            ORANGE if i % 2 == 0 else WHITE,
            Material.MATTE if i % 2 == 0 else Material.REFLECTIVE,
        )
        for i in range(5)
    ]
    return join([foot, *bands]).placed(0, 0, -h / 2, 0)


def barrier(size_lwh: tuple[float, float, float], style: int) -> Mesh:
    """A road barrier whose long side is its width (y), as annotated in nuScenes: concrete, water-filled or planks."""
    ln, w, h = size_lwh
    kind = style % 3
    parts: list[Mesh] = []
    if kind < 2:
        colour: Colour = (0.45, 0.44, 0.42) if kind == 0 else (ORANGE if style % 2 else WHITE)
        for low, high, depth in ((0.0, 0.2, 1.0), (0.2, 0.45, 0.75), (0.45, 1.0, 0.42)):
            parts.append(
                span((-ln / 2 * depth, -w / 2, low * h), (ln / 2 * depth, w / 2, high * h), colour, Material.MATTE)
            )
        if kind == 0:
            parts.append(
                span((-ln * 0.22, -w * 0.3, h * 0.7), (ln * 0.22, w * 0.3, h * 0.86), ORANGE, Material.REFLECTIVE)
            )
    else:
        for low, high in ((0.42, 0.62), (0.76, 1.0)):
            n = 8
            for k in range(n):
                y = -w / 2 + k * w / n
                parts.append(
                    span((-0.04, y, low * h), (0.04, y + w / n, high * h), RED if k % 2 else WHITE, Material.REFLECTIVE)
                )
        for s in (-1, 1):
            parts.append(box((0, s * w * 0.4, h * 0.48), (0.05, 0.08, h * 0.9), GREY, Material.METAL))
            parts.append(box((0, s * w * 0.4, 0.04), (ln, 0.1, 0.08), BLACK, Material.RUBBER))
    return join(parts).placed(0, 0, -h / 2, 0)
