"""Bicycles and motorcycles, with a rider or without."""

from __future__ import annotations

import numpy as np

from training.world.city.bodies import kind_of
from training.world.city.paints import (
    BLACK,
    CAR_PAINTS,
    CLOTHES,
    GREY,
    HI_VIS,
    RED,
    TROUSERS,
    WHITE,
    draw_paint,
    draw_skin,
)
from training.world.city.vehicle_parts import wheel
from training.world.mesh import Colour, Material, Mesh, bar, box, column, join, panel, ring, span

PEDAL_TURN_M = 5.0  # ridden for one turn of the pedals


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
    top = HI_VIS if rng.random() < 0.08 else draw_paint(rng, CLOTHES)
    trousers, skin = draw_paint(rng, TROUSERS), draw_skin(rng)
    neck = np.array([seat[0] + float(rng.uniform(0.12, 0.3)), 0.0, h - 0.3])
    hip = np.array([seat[0], 0.0, seat[1] + 0.08])
    parts = [bar(hip, neck, float(rng.uniform(0.29, 0.37)), top, Material.CLOTH)]
    head = (neck[0] + 0.06, 0.0)
    parts.append(column(head, (h - 0.3, h), (0.10, 0.09), 6, skin, Material.CLOTH))
    cap: Colour = (BLACK, WHITE, RED, draw_paint(rng, CLOTHES))[rng.integers(4)]
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
    if rng.random() < 0.3:  # a rucksack, or the box of a courier
        middle = (hip + neck) / 2 - (0.24, 0, -0.1)
        colour = draw_paint(rng, CLOTHES)
        side = 0.2 if rng.random() < 0.6 else 0.34
        parts.append(box((float(middle[0]), 0.0, float(middle[2])), (side, 0.36, side * 1.3), colour, Material.CLOTH))
    return parts


def bicycle(size_lwh: tuple[float, float, float], style: int, ridden_m: float, rider: bool) -> Mesh:
    """A diamond or step-through frame, some with basket, carrier or mudguards."""
    ln, w, h = size_lwh
    rng = np.random.default_rng(style)
    frame = draw_paint(rng, CAR_PAINTS if rng.random() < 0.5 else CLOTHES)
    r = 0.33 if ln > 1.65 else 0.29
    step_through = rng.random() < 0.4
    rear, front = -ln / 2 + r, ln / 2 - r
    low, seat, head = (rear + 0.42, 0, 0.3), (rear + 0.3, 0, 0.88), (front - 0.18, 0, 0.85)
    cross = (rear + 0.38, 0, 0.5) if step_through else seat
    beams = [(low, seat), (low, head), (cross, head), ((rear, 0, r), low), ((rear, 0, r), seat), ((front, 0, r), head)]
    parts = [ring(rear, r, 0.05, BLACK), ring(front, r, 0.05, BLACK)]
    parts += [bar(a, b, 0.05, frame, Material.PAINT) for a, b in beams]
    bars_z = 1.0 if rider else h - 0.025
    parts.append(bar(head, (head[0], 0, bars_z), 0.04, GREY, Material.METAL))
    parts.append(box((head[0] + 0.03, 0, bars_z), (0.05, w * 0.95, 0.05), BLACK, Material.RUBBER))
    parts.append(box((seat[0], 0, 0.92), (0.25, 0.14, 0.07), BLACK, Material.RUBBER))
    parts.append(box((rear - 0.05, 0, 0.7), (0.05, 0.08, 0.08), RED, Material.TAILLIGHT))
    if rng.random() < 0.35:
        parts.append(box((front - 0.02, 0, 0.83), (0.26, 0.34, 0.2), draw_paint(rng, CLOTHES), Material.MATTE))
    if rng.random() < 0.4:
        parts.append(panel((rear - 0.02, 0, 0.72), (0.36, 0.12, 0.0), GREY, Material.METAL))
        if rng.random() < 0.5:
            parts.append(box((rear, 0, 0.55), (0.3, 0.34, 0.28), draw_paint(rng, CLOTHES), Material.CLOTH))
    if rider:
        turn = ridden_m / PEDAL_TURN_M * 2 * np.pi
        parts += _rider(h, w, (seat[0], 0.92), (head[0], bars_z), low[0], turn, rng, rng.random() < 0.5)
    return join(parts).placed(0, 0, -h / 2, 0)


def motorcycle(size_lwh: tuple[float, float, float], style: int, rider: bool) -> Mesh:
    """A motorbike or a scooter, some with a windscreen or a top case."""
    ln, w, h = size_lwh
    rng = np.random.default_rng(style)
    paint = draw_paint(rng, CLOTHES if rng.random() < 0.6 else CAR_PAINTS)
    # A rider's height is not the machine's, so the kind is asked for as if nobody sat on it.
    scooter = kind_of("motorcycle", (ln, w, 1.22), rng) == "scooter"
    r = 0.25 if scooter else 0.32
    rear, front = -ln / 2 + r, ln / 2 - r
    parts = [wheel(x, s * 0.075, r, 0.07, 10) for x in (rear, front) for s in (-1, 1)]
    engine = (rear + 0.2, -0.16, 0.28), (front - 0.35, 0.16, 0.62)
    parts.append(span(*engine, paint if scooter else GREY, Material.METAL))
    parts.append(bar((rear - 0.12, 0, 0.82), (rear + 0.65, 0, 0.76), 0.24, BLACK, Material.RUBBER))
    if not scooter:
        parts.append(span((-0.02, -0.17, 0.6), (front - 0.4, 0.17, 0.95), paint, Material.PAINT))
        pipe = (rear - 0.1, -0.2, 0.4), (front - 0.5, -0.2, 0.34)
        parts.append(bar(*pipe, 0.1, GREY, Material.METAL))
    parts.append(span((rear - 0.15, -0.14, 0.55), (rear + 0.3, 0.14, 0.74), paint, Material.PAINT))
    bars_z = 1.05 if rider else h - 0.03
    parts.append(bar((front, 0, r), (front - 0.28, 0, bars_z), 0.12, GREY, Material.METAL))
    parts.append(box((front - 0.28, 0, bars_z), (0.08, w * 0.95, 0.06), BLACK, Material.RUBBER))
    parts.append(box((front - 0.1, 0, 0.83), (0.16, 0.2, 0.2), (0.8, 0.8, 0.75), Material.HEADLIGHT))
    parts.append(box((rear - 0.2, 0, 0.68), (0.06, 0.18, 0.1), RED, Material.TAILLIGHT))
    if scooter:
        parts.append(bar((front - 0.3, 0, 0.3), (front - 0.22, 0, bars_z), 0.36, paint, Material.PAINT))
    if rng.random() < 0.3:
        parts.append(box((rear - 0.02, 0, 0.95), (0.34, 0.36, 0.28), draw_paint(rng, CLOTHES), Material.MATTE))
    if rider:
        parts += _rider(h, w, (rear + 0.35, 0.84), (front - 0.28, bars_z), rear + 0.6, 0.3, rng, True)
    return join(parts).placed(0, 0, -h / 2, 0)
