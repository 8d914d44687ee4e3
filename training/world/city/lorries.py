"""The bodies of lorries and trailers: a cabin and what is behind it, or what is towed."""

from __future__ import annotations

import numpy as np

from training.world.city.paints import (
    BLACK,
    DARK,
    FLEET_PAINTS,
    GREY,
    ORANGE,
    RED,
    WHITE,
    dirty,
    draw_paint,
    lighter_or_darker,
)
from training.world.city.vehicle_parts import RIMS, cab, lamps, logo, lying_cylinder, wheels
from training.world.mesh import Colour, Material, Mesh, bar, box, panel, prism, span

PLANKS: Colour = (0.42, 0.30, 0.17)


def truck(ln: float, w: float, h: float, kind: str, rng: np.random.Generator) -> list[Mesh]:
    """A rigid lorry with a box, a flat bed, a tank, a refuse body or a mixer's drum, or a tractor unit without any."""
    paint, load = dirty(draw_paint(rng, FLEET_PAINTS), rng), draw_paint(rng, FLEET_PAINTS)
    cab_length = min(float(rng.uniform(1.8, 2.2)), 0.32 * ln)
    cab_h = h * {"box_truck": float(rng.uniform(0.78, 0.9)), "refuse": 0.86, "mixer": 0.8}.get(kind, 0.97)
    bed = -ln / 2, ln / 2 - cab_length - 0.25
    parts = cab(ln, w, cab_h, cab_length, paint)
    parts.append(span((-ln / 2 + 0.1, -w * 0.3, 0.55), (bed[1] + 0.4, w * 0.3, 0.85), BLACK, Material.METAL))
    for side in (-1, 1):  # tanks and lockers between the axles
        parts.append(panel((-0.02 * ln, side * w * 0.46, 0.68), (ln * 0.22, 0.0, 0.36), GREY, Material.METAL))
    body = {
        "box_truck": _box,
        "flatbed": _flatbed,
        "tank": _tank,
        "refuse": _refuse,
        "mixer": _mixer,
        "tractor": _coupling,
    }
    parts += body[kind](bed, w, h, load, paint, rng)
    axles = [-0.36 * ln, ln / 2 - cab_length * 0.55] + ([-0.36 * ln + 1.15] if ln > 7 else [])
    rim = RIMS[rng.integers(len(RIMS))]
    return [*parts, *lamps(ln, w, 0.62, 0.72), *wheels(axles, w, 0.48, 0.3, rim)]


Bed = tuple[float, float]


def _box(bed: Bed, w: float, h: float, load: Colour, paint: Colour, rng: np.random.Generator) -> list[Mesh]:
    rear, front = bed
    parts = [
        span((rear + 0.03, -w * 0.492, 0.9), (front, w * 0.492, h), load, Material.MATTE),
        panel((rear + 0.02, 0, (0.95 + h) / 2), (0.0, w * 0.9, h - 1.15), lighter_or_darker(GREY, rng), Material.METAL),
        panel((rear + 0.018, 0, (0.95 + h) / 2), (0.0, 0.03, h - 1.15), DARK, Material.METAL),
    ]
    if rng.random() < 0.75:
        parts += logo((rear + 0.2, front - 0.2), w * 0.492, (1.1, h - 0.1), draw_paint(rng, FLEET_PAINTS), rng)
    if rng.random() < 0.3:  # a cooling unit above the cabin
        parts.append(span((front, -w * 0.3, h * 0.8), (front + 0.5, w * 0.3, h * 0.97), WHITE, Material.MATTE))
    return parts


def _flatbed(bed: Bed, w: float, h: float, load: Colour, paint: Colour, rng: np.random.Generator) -> list[Mesh]:
    rear, front = bed
    middle, long = (rear + front) / 2, front - rear
    parts = [span((rear, -w / 2, 0.9), (front, w / 2, 1.1), GREY, Material.MATTE)]
    for s in (-1, 1):
        parts.append(box((middle, s * w * 0.485, 1.4), (long, 0.07, 0.6), load, Material.MATTE))
    parts.append(box((rear + 0.04, 0, 1.4), (0.07, w, 0.6), load, Material.MATTE))
    goods = rng.integers(3)  # nothing, planks, pipes
    if goods == 1:
        parts.append(box((middle, 0, h * 0.6), (long * 0.7, w * 0.7, h * 0.35), PLANKS, Material.MATTE))
    elif goods == 2:
        for y, z in ((-0.3, 1.3), (0.0, 1.3), (0.3, 1.3), (-0.15, 1.75), (0.15, 1.75)):
            a, b = (rear + 0.3, y * w, z), (front - 0.3, y * w, z)
            parts.append(bar(a, b, 0.45, lighter_or_darker(GREY, rng), Material.METAL))
    return parts


def _tank(bed: Bed, w: float, h: float, load: Colour, paint: Colour, rng: np.random.Generator) -> list[Mesh]:
    rear, front = bed
    tank = lying_cylinder((rear + 0.1, front), (0.95, h * 0.93), w * 0.48, load)
    walk = box(((rear + front) / 2, 0, h * 0.95), ((front - rear) * 0.8, 0.4, 0.08), GREY, Material.METAL)
    return [tank, walk]


def _refuse(bed: Bed, w: float, h: float, load: Colour, paint: Colour, rng: np.random.Generator) -> list[Mesh]:
    rear, front = bed
    body: Colour = paint if rng.random() < 0.5 else ORANGE
    hopper = prism(
        [(rear + 0.02, 0.7), (rear + 0.02, h * 0.55), (rear + 0.5, h), (rear + 1.5, h), (rear + 1.5, 0.9)],
        w * 0.47,
        GREY,
        Material.METAL,
    )
    parts = [span((rear + 1.4, -w * 0.49, 0.9), (front, w * 0.49, h * 0.96), body, Material.PAINT), hopper]
    for s in (-1, 1):  # ribs, and stripes at the rear
        for x in np.linspace(rear + 2.0, front - 0.6, 4):
            parts.append(panel((float(x), s * w * 0.492, h * 0.6), (0.09, 0.0, h * 0.6), DARK, Material.METAL))
        parts.append(panel((rear + 0.015, s * w * 0.38, h * 0.36), (0.0, w * 0.14, h * 0.28), RED, Material.REFLECTIVE))
    return parts


def _mixer(bed: Bed, w: float, h: float, load: Colour, paint: Colour, rng: np.random.Generator) -> list[Mesh]:
    rear, front = bed
    long = front - rear
    # The drum leans back: three rings of a cylinder, widest in its middle, whose mouth is at the rear.
    low = lying_cylinder((rear + long * 0.72, front - 0.1), (1.25, h * 0.72), w * 0.34, load)
    middle = lying_cylinder((rear + long * 0.34, rear + long * 0.74), (1.15, h * 0.9), w * 0.46, load)
    mouth = lying_cylinder(
        (rear + long * 0.1, rear + long * 0.36), (1.7, h * 0.97), w * 0.32, lighter_or_darker(load, rng)
    )
    band = lying_cylinder((rear + long * 0.5, rear + long * 0.56), (1.12, h * 0.91), w * 0.468, WHITE)
    chute = bar((rear + long * 0.1, 0, h * 0.6), (rear + 0.25, 0, 1.1), 0.35, GREY, Material.METAL)
    top = span((rear + long * 0.08, -w * 0.2, h * 0.96), (rear + long * 0.2, w * 0.2, h), GREY, Material.METAL)
    return [low, middle, mouth, band, chute, top]


def _coupling(bed: Bed, w: float, h: float, load: Colour, paint: Colour, rng: np.random.Generator) -> list[Mesh]:
    rear, front = bed
    plate = span((rear + 0.5, -0.5, 0.95), (rear + 1.9, 0.5, 1.1), DARK, Material.METAL)
    guard = span((rear + 0.03, -w * 0.48, 0.75), (front - 0.3, w * 0.48, 0.98), BLACK, Material.METAL)
    deflector = prism(
        [(front + 0.25, h * 0.9), (front + 0.3, h), (front + 1.0, h * 0.97), (front + 1.3, h * 0.9)],
        w * 0.42,
        paint,
        Material.PAINT,
    )
    return [plate, guard, deflector]


def trailer(ln: float, w: float, h: float, kind: str, rng: np.random.Generator) -> list[Mesh]:
    """A closed, curtained or tank semi-trailer, a container on its chassis, or a small one with a drawbar."""
    load = dirty(draw_paint(rng, FLEET_PAINTS), rng)
    small = kind == "small_trailer"
    floor = 0.55 if small else 1.15
    frame = span((-ln / 2 + 0.05, -w * 0.28, floor - 0.3), (ln / 2 - 0.3, w * 0.28, floor), BLACK, Material.METAL)
    front = ln / 2 - {"container": 0.4, "small_trailer": 1.1}.get(kind, 0.0)
    rear = -ln / 2 + 0.04
    parts = [frame]
    if kind == "tank_trailer":
        parts.append(lying_cylinder((rear, front), (floor, h), w * 0.49, load))
    else:
        parts.append(span((rear, -w * 0.487, floor), (front, w * 0.487, h), load, Material.MATTE))
    ribs = {"curtain_trailer": 3, "container": int(ln / 0.6), "box_trailer": int(ln / 0.9)}.get(kind, 0)
    tone = lighter_or_darker(load if kind == "container" else GREY, rng)
    for k in range(1, ribs):
        x = -ln / 2 + k * (front + ln / 2) / ribs
        for s in (-1, 1):
            parts.append(panel((x, s * w * 0.49, (floor + h) / 2), (0.1, 0.0, h - floor), tone, Material.METAL))
    if kind in ("box_trailer", "curtain_trailer", "small_trailer") and rng.random() < 0.6:
        parts += logo((rear + 0.3, front - 0.3), w * 0.492, (floor + 0.2, h - 0.1), draw_paint(rng, FLEET_PAINTS), rng)
    doors = WHITE if rng.random() < 0.5 else lighter_or_darker(load, rng)
    for s in (-1, 1):  # doors, underride bar stripes, landing legs, side guards
        if kind != "tank_trailer":
            door = (-ln / 2 + 0.02, s * w * 0.24, (floor + h) / 2)
            parts.append(panel(door, (0.0, w * 0.44, h - floor - 0.2), doors, Material.METAL))
        if not small:
            parts.append(box((ln * 0.24, s * w * 0.3, floor * 0.42), (0.15, 0.15, floor * 0.8), GREY, Material.METAL))
            guard = (0.02 * ln, s * w * 0.48, floor * 0.62)
            parts.append(panel(guard, (ln * 0.34, 0.0, 0.3), GREY, Material.METAL))
        for k in range(3):
            bar_at = (-ln / 2 + 0.012, s * w * (0.1 + 0.13 * k), floor - 0.22)
            stripe: Colour = RED if k % 2 else WHITE
            parts.append(panel(bar_at, (0.0, w * 0.13, 0.16), stripe, Material.REFLECTIVE))
    if small:
        parts.append(bar((front, 0, floor - 0.1), (ln / 2 - 0.02, 0, floor - 0.15), 0.12, BLACK, Material.METAL))
    radius = 0.34 if small else 0.46
    first = -ln * 0.12 if small else -ln / 2 + 0.4 + radius
    axles = [
        first + (0.75 if small else 1.2) * k for k in range((1 if ln < 5.5 else 2) if small else (3 if ln > 9 else 2))
    ]
    tails = lamps(ln, w, floor - 0.15, floor - 0.15)[1::2]
    return [*parts, *tails, *wheels(axles, w, radius, 0.3)]
