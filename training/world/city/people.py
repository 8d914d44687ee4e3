"""People: small meshes about the box's gravity centre, with clothes, things they carry, and limbs that swing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.world.city.bodies import kind_of
from training.world.city.paints import (
    BLACK,
    CLOTHES,
    GREY,
    HAIR,
    HI_VIS,
    ORANGE,
    TROUSERS,
    WHITE,
    YELLOW,
    draw_paint,
    draw_skin,
)
from training.world.mesh import Colour, Material, Mesh, bar, box, column, join, patch, tinted

STRIDE_M = 0.75
UMBRELLA_M = 0.26  # from a head to the top of the umbrella over it


def pedestrian(size_lwh: tuple[float, float, float], style: int, walked_m: float) -> Mesh:
    """A person facing +x; legs and arms swing with the distance walked, at standstill they hang.

    The size says whether it is an adult, a child, someone under an umbrella or someone who sits.
    """
    ln, w, h = size_lwh
    rng = np.random.default_rng(style)
    kind = kind_of("pedestrian", size_lwh, rng)
    if kind == "sitting":
        parts = _sitting(ln, w, h, rng)
    elif kind == "umbrella":
        reach = min(ln, w) / 2
        parts = _upright(0.62, 0.6, h - UMBRELLA_M, walked_m, rng)
        canopy = draw_paint(rng, CLOTHES)
        parts.append(column((0.0, 0.0), (h - 0.27, h), (reach, 0.06), 8, canopy, Material.CLOTH))
        hand = (0.16, -0.2, 0.62 * h)
        parts.append(bar(hand, (0.05, 0.0, h - 0.04), 0.025, GREY, Material.METAL))
    else:
        parts = _upright(ln, w, h, walked_m, rng)
    return join(parts).placed(0, 0, -h / 2, 0)


def block(low: NDArray[np.float64], high: NDArray[np.float64], colour: Colour) -> Mesh:
    """A trunk: from a lower to an upper rectangle, each (4,) x, z, half depth, half width."""
    rings = []
    for x, z, depth, wide in (low, high):
        rings.append(
            np.array([(x - depth, -wide, z), (x + depth, -wide, z), (x + depth, wide, z), (x - depth, wide, z)])
        )
    a, b = rings
    faces = [np.stack([b[0], b[1], b[2]]), np.stack([b[0], b[2], b[3]])]
    for i in range(4):
        j = (i + 1) % 4
        faces += [np.stack([a[i], a[j], b[j]]), np.stack([a[i], b[j], b[i]])]
    return patch(np.array(faces), colour, Material.CLOTH)


def _trunk(x: float, hip: float, shoulder: float, h: float, w: float, build: float, colour: Colour) -> list[Mesh]:
    """Hips to shoulders: broader above, or as broad below for the stout."""
    depth = 0.068 * h * build
    waist = hip + (shoulder - hip) * 0.25
    return [
        block(
            np.array([x, hip - 0.05, depth, w * 0.23 * build]), np.array([x, waist, depth, w * 0.22 * build]), colour
        ),
        block(np.array([x, waist, depth, w * 0.22 * build]), np.array([x, shoulder, depth * 0.85, w * 0.3]), colour),
    ]


def _head(x: float, h: float, skin: Colour, rng: np.random.Generator, hat: Colour | None = None) -> list[Mesh]:
    """Neck, head and hair, or what covers it; `hat`: a helmet of this colour."""
    parts = [
        column((x, 0.0), (0.80 * h, 0.87 * h), (0.035 * h, 0.035 * h), 5, skin, Material.CLOTH),
        column((x, 0.0), (0.86 * h, h), (0.055 * h, 0.05 * h), 6, skin, Material.CLOTH),
    ]
    cover, hair = rng.random(), draw_paint(rng, HAIR)
    if hat is not None:
        parts.append(column((x, 0.0), (0.945 * h, h), (0.08 * h, 0.045 * h), 7, hat, Material.PAINT))
    elif cover < 0.10:  # a cap with its peak
        cloth = draw_paint(rng, CLOTHES)
        parts.append(column((x - 0.005, 0.0), (0.95 * h, h), (0.066 * h, 0.05 * h), 6, cloth, Material.CLOTH))
        parts.append(box((x + 0.06 * h, 0.0, 0.955 * h), (0.06 * h, 0.08 * h, 0.012 * h), cloth, Material.CLOTH))
    elif cover < 0.18:  # a woollen hat
        cloth = draw_paint(rng, CLOTHES)
        parts.append(column((x, 0.0), (0.935 * h, h), (0.068 * h, 0.035 * h), 7, cloth, Material.CLOTH))
    elif cover < 0.25:  # a scarf or hood about the head
        cloth = draw_paint(rng, CLOTHES)
        parts.append(column((x - 0.02, 0.0), (0.82 * h, h), (0.09 * h, 0.05 * h), 7, cloth, Material.CLOTH))
    elif cover < 0.55:  # long hair
        parts.append(column((x - 0.018, 0.0), (0.84 * h, h), (0.066 * h, 0.052 * h), 6, hair, Material.CLOTH))
    elif cover < 0.95:
        parts.append(column((x - 0.01, 0.0), (0.95 * h, h), (0.066 * h, 0.05 * h), 6, hair, Material.CLOTH))
    return parts


def _upright(ln: float, w: float, h: float, walked_m: float, rng: np.random.Generator) -> list[Mesh]:
    top, trousers, skin = draw_paint(rng, CLOTHES), draw_paint(rng, TROUSERS), draw_skin(rng)
    worker = h > 1.5 and rng.random() < 0.10
    if worker:
        top, trousers = (HI_VIS, ORANGE)[rng.integers(2)], (trousers, ORANGE, HI_VIS)[rng.integers(3)]
    dress = rng.random()  # coat, skirt, dress, shorts, trousers
    sleeves = top if dress < 0.3 or rng.random() < 0.6 else skin
    build = float(rng.uniform(0.85, 1.25))
    hip, shoulder = float(rng.uniform(0.48, 0.52)) * h, 0.82 * h
    reach = max(0.06, min(ln / 2 - 0.025 - 0.07 * h, 0.17 * h))  # a foot reaches 7 % of the height before its heel
    swing = np.sin(walked_m / STRIDE_M * np.pi) * reach
    shins = skin if 0.3 <= dress < 0.52 else trousers
    thighs = trousers if dress < 0.42 or dress >= 0.52 else skin
    shoes = (BLACK, WHITE, (0.16, 0.09, 0.05), draw_paint(rng, CLOTHES))[rng.integers(4)]
    thick = 0.085 * h * build
    parts = _trunk(0.0, hip, shoulder, h, w, build, top)
    parts += _head(0.0, h, skin, rng, (YELLOW, WHITE, ORANGE)[rng.integers(3)] if worker else None)
    busy = rng.random()  # one arm bent: a telephone, a cup; or both before the body
    for side, phase in ((-1, 1.0), (1, -1.0)):
        foot, knee = swing * phase, swing * phase * 0.5 + 0.03
        y = side * w * 0.13 * build
        parts.append(bar((0, y, hip), (knee, y, hip * 0.52), thick, thighs, Material.CLOTH))
        parts.append(bar((knee, y, hip * 0.52), (foot, y, 0.06), thick * 0.78, shins, Material.CLOTH))
        parts.append(box((foot + 0.02, y, 0.04), (0.14 * h, 0.055 * h, 0.08), shoes, Material.RUBBER))
        hand, y_arm = -swing * phase * 0.75, side * w * 0.38
        elbow = (hand * 0.4, y_arm, 0.63 * h)
        end = (hand, y_arm * 0.97, 0.48 * h)
        if busy < 0.08 or (busy < 0.25 and side < 0):
            elbow, end = (0.02, y_arm, 0.64 * h), (min(0.2, ln / 2 - 0.03), y_arm * 0.5, 0.7 * h)
        parts.append(bar((0, side * w * 0.32, shoulder - 0.02), elbow, 0.055 * h * build, top, Material.CLOTH))
        parts.append(bar(elbow, end, 0.046 * h, sleeves, Material.CLOTH))
    if dress < 0.18:  # a coat
        parts.append(column((0, 0), (0.27 * h, hip), (w * 0.3 * build, w * 0.24 * build), 7, top, Material.CLOTH))
    elif 0.30 <= dress < 0.42:  # a skirt or the lower half of a dress
        cloth = top if rng.random() < 0.5 else trousers
        low = float(rng.uniform(0.12, 0.34)) * h
        parts.append(column((0, 0), (low, hip + 0.04), (w * 0.33, w * 0.21), 7, cloth, Material.CLOTH))
    if worker:  # reflecting bands about the vest
        for z in (0.6, 0.68):
            band = np.array([0.0, z * h, 0.075 * h * build, w * 0.285])
            parts.append(block(band, band + (0, 0.03 * h, 0, 0), WHITE))
    parts += _carried(ln, w, h, top, rng)
    return parts


def _carried(ln: float, w: float, h: float, top: Colour, rng: np.random.Generator) -> list[Mesh]:
    """A rucksack, a bag at the hip or in the hand, or nothing."""
    kind, colour = rng.random(), draw_paint(rng, CLOTHES)
    if kind < 0.2:
        return [box((-0.115 * h, 0, 0.68 * h), (0.09 * h, w * 0.4, 0.2 * h), colour, Material.CLOTH)]
    if kind < 0.32:
        strap = bar((0, w * 0.25, 0.82 * h), (0.075 * h, -w * 0.25, 0.5 * h), 0.03, colour, Material.CLOTH)
        return [strap, box((0, -w * 0.35, 0.47 * h), (0.2, 0.1, 0.17), colour, Material.CLOTH)]
    if kind < 0.42:
        return [box((0, w * 0.4, 0.36 * h), (0.26, 0.09, 0.26), tinted(colour, 1.2), Material.CLOTH)]
    return []


def _sitting(ln: float, w: float, h: float, rng: np.random.Generator) -> list[Mesh]:
    """On a seat 0.45 m high, its back at the rear of the box, the feet before it."""
    top, trousers, skin = draw_paint(rng, CLOTHES), draw_paint(rng, TROUSERS), draw_skin(rng)
    hip_x, knee_x, foot_x = -ln / 2 + 0.16, -ln / 2 + 0.62, -ln / 2 + 0.68 + float(rng.uniform(-0.08, 0.1))
    tall = h * 1.36  # how tall the person stands: what the parts of head and trunk are shares of
    parts = [
        part.placed(hip_x, 0, h - tall, 0)
        for part in _trunk(0.0, tall - h + 0.5, 0.83 * tall, tall, w, float(rng.uniform(0.9, 1.2)), top)
        + _head(0.02, tall, skin, rng)
    ]
    shoulder = h - 0.17 * tall - 0.02
    for side in (-1, 1):
        y = side * w * 0.16
        parts.append(bar((hip_x, y, 0.54), (knee_x, y, 0.52), 0.15, trousers, Material.CLOTH))
        parts.append(bar((knee_x, y, 0.5), (foot_x, y, 0.06), 0.11, trousers, Material.CLOTH))
        parts.append(box((foot_x + 0.04, y, 0.04), (0.24, 0.09, 0.08), BLACK, Material.RUBBER))
        elbow, hand = (hip_x + 0.08, side * w * 0.4, 0.72), (hip_x + 0.34, side * w * 0.22, 0.63)
        parts.append(bar((hip_x, side * w * 0.36, shoulder), elbow, 0.1, top, Material.CLOTH))
        parts.append(bar(elbow, hand, 0.08, skin, Material.CLOTH))
    return parts
