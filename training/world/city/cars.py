"""The bodies of cars, pickups and delivery vans: a side profile with glass, pillars, joints and lamps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.world.city.paints import (
    BLACK,
    CAR_PAINTS,
    DARK,
    FLEET_PAINTS,
    GLASS,
    WHITE,
    YELLOW,
    dirty,
    draw_paint,
    lighter_or_darker,
)
from training.world.city.vehicle_parts import RIMS, arches, lamps, logo, mirrors, plates, wheels
from training.world.mesh import Colour, Material, Mesh, bar, box, panel, prism, quad, span

SIDE = 0.475  # where a body's flat side is, in shares of the width: wheels and mirrors stand out beyond it


@dataclass(frozen=True)
class Outline:
    """A car's side view. As shares of its length about the middle: the rear glass's foot, the roof's rear and front,
    the windscreen's foot, the axles; as shares of its height: waistline, bonnet and boot edges; wheel radius in m."""

    foot_r: float
    roof_r: float
    roof_f: float
    foot_f: float
    waist: float
    bonnet: float
    boot: float
    axles: tuple[float, float]
    radius: float
    doors: tuple[float, ...]  # shares of the length where joints run


OUTLINES = {
    "sedan": Outline(-0.40, -0.22, 0.08, 0.24, 0.60, 0.52, 0.60, (-0.29, 0.31), 0.32, (-0.21, 0.0, 0.2)),
    "hatchback": Outline(-0.485, -0.37, 0.09, 0.27, 0.60, 0.53, 0.62, (-0.31, 0.32), 0.31, (-0.19, 0.02, 0.22)),
    "estate": Outline(-0.485, -0.42, 0.09, 0.24, 0.60, 0.52, 0.62, (-0.29, 0.31), 0.32, (-0.21, 0.0, 0.2)),
    "suv": Outline(-0.485, -0.42, 0.08, 0.24, 0.61, 0.56, 0.63, (-0.30, 0.31), 0.37, (-0.20, 0.0, 0.21)),
    "minivan": Outline(-0.49, -0.46, 0.15, 0.34, 0.55, 0.48, 0.58, (-0.30, 0.33), 0.33, (-0.16, 0.06, 0.25)),
    "coupe": Outline(-0.42, -0.20, 0.03, 0.20, 0.62, 0.52, 0.66, (-0.30, 0.31), 0.33, (-0.14, 0.13)),
    "pickup": Outline(-0.075, -0.06, 0.12, 0.25, 0.60, 0.57, 0.60, (-0.28, 0.32), 0.39, (-0.06, 0.09, 0.23)),
    "delivery_van": Outline(0.20, 0.12, 0.27, 0.39, 0.50, 0.42, 0.55, (-0.29, 0.33), 0.34, (0.10, 0.27)),
}


def _shell(ln: float, w: float, h: float, o: Outline, paint: Colour) -> list[Mesh]:
    """The lower body, and the glasshouse with its roof and pillars."""
    top = h * 0.955
    rear = max(o.foot_r, -0.485)
    lower = [
        (-0.495, 0.2),
        (-0.497, 0.44),
        (-0.487, o.boot),
        (rear, max(o.waist, o.boot)),
        (o.foot_f, o.waist),
        (0.45, o.bonnet),
        (0.49, o.bonnet - 0.1),
        (0.496, 0.36),
        (0.49, 0.2),
    ]
    parts = [
        prism([(x * ln, z * h) for x, z in lower], w * SIDE, paint, Material.PAINT),
        prism(
            [(o.foot_r * ln, o.waist * h), (o.roof_r * ln, top), (o.roof_f * ln, top), (o.foot_f * ln, o.waist * h)],
            [w * 0.45, w * 0.38, w * 0.38, w * 0.45],
            GLASS,
            Material.GLASS,
        ),
    ]
    for side in (-1, 1):
        low, high = side * w * 0.452, side * w * 0.384
        for a, b, thick in ((o.foot_f, o.roof_f, 0.07), (o.foot_r, o.roof_r, 0.09)):
            parts.append(bar((a * ln, low, o.waist * h), (b * ln, high, top), thick, paint, Material.PAINT))
        for x in o.doors[1:-1]:  # the posts between the windows
            strip = [(x * ln - 0.04, low, o.waist * h), (x * ln + 0.04, low, o.waist * h)]
            strip += [(x * ln + 0.03, high, top), (x * ln - 0.03, high, top)]
            parts.append(quad(np.array(strip) + (0, side * 0.006, 0), BLACK, Material.MATTE))
    return parts


def _roof(ln: float, w: float, h: float, o: Outline, colour: Colour) -> Mesh:
    top = h * 0.955 - 0.02
    return prism(
        [((o.roof_r - 0.01) * ln, top), (o.roof_r * ln, h), (o.roof_f * ln, h), ((o.roof_f + 0.01) * ln, top)],
        [w * 0.39, w * 0.375, w * 0.375, w * 0.39],
        colour,
        Material.PAINT,
    )


def _trim(ln: float, w: float, h: float, o: Outline, lower: Colour, rng: np.random.Generator) -> list[Mesh]:
    """Bumpers, grille, joints and handles of the doors, mirrors, plates, wheels in their arches."""
    parts = [box((0, 0, 0.18 * h), (ln * 0.985, w * 0.92, 0.14 * h), lower, Material.MATTE)]
    tall = float(rng.uniform(0.06, 0.13))
    parts.append(
        panel((0.498 * ln, 0, 0.37 * h), (0.0, w * float(rng.uniform(0.4, 0.62)), tall * h), DARK, Material.MATTE)
    )
    parts.append(panel((-0.498 * ln, 0, 0.24 * h), (0.0, w * 0.85, 0.1 * h), lower, Material.MATTE))
    for side in (-1, 1):
        for x in o.doors:
            joint = [(x * ln - 0.012, SIDE + 0.003, 0.25 * h), (x * ln + 0.012, SIDE + 0.003, 0.25 * h)]
            joint += [(x * ln + 0.012, SIDE + 0.003, o.waist * h), (x * ln - 0.012, SIDE + 0.003, o.waist * h)]
            parts.append(quad(np.array(joint) * (1, side * w, 1), DARK, Material.MATTE))
        for x in o.doors[:-1]:
            handle = (x * ln + 0.14, side * w * (SIDE + 0.004), (o.waist - 0.07) * h)
            parts.append(panel(handle, (0.16, 0.0, 0.03), BLACK, Material.METAL))
    rear, front = (x * ln for x in o.axles)
    rim = RIMS[rng.integers(len(RIMS))]
    return [
        *parts,
        *mirrors((o.foot_f - 0.03) * ln, w * 0.485, o.waist * h + 0.06, (0.14, w * 0.028, 0.12), lower),
        *plates(ln, 0.3 * h),
        *arches([rear, front], w * (SIDE + 0.004), o.radius),
        *wheels([rear, front], w, o.radius, 0.22, rim),
    ]


def car(ln: float, w: float, h: float, kind: str, rng: np.random.Generator) -> list[Mesh]:
    """A sedan, hatchback, estate, SUV, minivan or coupe, some of them taxis."""
    o = OUTLINES[kind]
    paint = dirty(draw_paint(rng, CAR_PAINTS), rng)
    taxi = kind in ("sedan", "estate", "minivan") and rng.random() < 0.12
    if taxi:
        paint = (YELLOW, (0.60, 0.50, 0.32), BLACK)[rng.integers(3)]
    roof = BLACK if kind in ("hatchback", "suv", "coupe") and rng.random() < 0.25 else paint
    lower = BLACK if kind == "suv" or rng.random() < 0.6 else lighter_or_darker(paint, rng)
    tall = float(rng.choice([1.0, 1.4, 2.2]))
    body_h = h - (0.16 if taxi else 0.0)
    parts = [*_shell(ln, w, body_h, o, paint), _roof(ln, w, body_h, o, roof), *_trim(ln, w, body_h, o, lower, rng)]
    parts += lamps(ln, w * 0.93, 0.43 * body_h, 0.48 * body_h, float(rng.uniform(0.11, 0.18)), tall)
    if taxi:
        middle = (o.roof_r + o.roof_f) / 2 * ln
        parts.append(box((middle, 0, h - 0.085), (0.2, 0.6, 0.17), (0.8, 0.65, 0.2), Material.LAMP))
    elif kind in ("suv", "estate", "minivan") and rng.random() < 0.4:  # roof rails or a box on the roof
        for side in (-1, 1):
            rail = (
                ((o.roof_r + 0.03) * ln, side * w * 0.36, h - 0.03),
                ((o.roof_f - 0.03) * ln, side * w * 0.36, h - 0.03),
            )
            parts.append(bar(*rail, 0.05, BLACK, Material.METAL))
    return parts


def pickup(ln: float, w: float, h: float, rng: np.random.Generator) -> list[Mesh]:
    """Two rows of seats and an open bed, empty, loaded or covered."""
    o = OUTLINES["pickup"]
    paint = dirty(draw_paint(rng, CAR_PAINTS), rng)
    parts = [*_shell(ln, w, h, o, paint), _roof(ln, w, h, o, paint), *_trim(ln, w, h, o, BLACK, rng)]
    parts += lamps(ln, w * 0.93, 0.46 * h, 0.5 * h, 0.16, 2.0)
    parts.append(panel((-0.28 * ln, 0, o.waist * h + 0.004), (0.37 * ln, w * 0.8, 0.0), DARK, Material.MATTE))
    load = rng.random()
    if load < 0.3:
        parts.append(span((-0.46 * ln, -w * 0.35, 0.5 * h), (-0.12 * ln, w * 0.35, 0.78 * h), BLACK, Material.MATTE))
    elif load < 0.6:
        goods = draw_paint(rng, FLEET_PAINTS)
        low, high = (-0.4 * ln, -w * 0.3, 0.5 * h), (-0.2 * ln, w * float(rng.uniform(0.0, 0.3)), 0.85 * h)
        parts.append(span(low, high, goods, Material.MATTE))
    return parts


def delivery_van(ln: float, w: float, h: float, rng: np.random.Generator) -> list[Mesh]:
    """A box with a short bonnet, often with lettering on its sides."""
    o = OUTLINES["delivery_van"]
    paint = dirty(draw_paint(rng, FLEET_PAINTS), rng)
    lower = [
        (-0.495, 0.17),
        (-0.495, 0.93),
        (-0.48, 1.0),
        (0.27, 1.0),
        (0.40, o.waist),
        (0.47, o.bonnet),
        (0.496, 0.34),
    ]
    lower.append((0.49, 0.17))
    parts = [
        prism(
            [(x * ln, z * h) for x, z in lower],
            w * SIDE,
            paint,
            Material.PAINT,
        )
    ]
    screen = [(0.29, 0.975, 0.40), (0.29, 0.975, -0.40), (0.403, o.waist + 0.02, -0.45), (0.403, o.waist + 0.02, 0.45)]
    parts.append(quad([(x * ln + 0.02, y * w, z * h) for x, z, y in screen], GLASS, Material.GLASS))
    for side in (-1, 1):
        pane = [(0.15, SIDE, o.waist), (0.38, SIDE, o.waist), (0.29, SIDE, 0.9), (0.15, SIDE, 0.9)]
        parts.append(quad([(x * ln, side * (y * w + 0.012), z * h) for x, y, z in pane], GLASS, Material.GLASS))
        rear = (-0.497 * ln, side * w * 0.22, 0.72 * h)
        parts.append(panel(rear, (0.0, w * 0.34, 0.25 * h), GLASS if rng.random() < 0.6 else WHITE, Material.GLASS))
    if rng.random() < 0.65:
        parts += logo((-0.46 * ln, 0.08 * ln), w * SIDE, (0.38 * h, 0.66 * h), draw_paint(rng, FLEET_PAINTS), rng)
    parts += _trim(ln, w, h, o, BLACK, rng)
    return parts + lamps(ln, w * 0.93, 0.33 * h, 0.4 * h, 0.17, 2.4)
