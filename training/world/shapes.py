"""The bodies of the vehicles: low-poly meshes inside a box of given size, centred on the box's gravity centre."""

from __future__ import annotations

import numpy as np

from training.world.mesh import Colour, Material, Mesh, bar, box, join, prism, span, wheel

CAR_COLOURS: tuple[Colour, ...] = (
    (0.75, 0.75, 0.76),
    (0.75, 0.75, 0.76),
    (0.03, 0.03, 0.035),
    (0.05, 0.05, 0.06),
    (0.35, 0.36, 0.38),
    (0.20, 0.21, 0.23),
    (0.50, 0.03, 0.03),
    (0.04, 0.09, 0.35),
    (0.05, 0.22, 0.50),
    (0.55, 0.45, 0.28),
    (0.05, 0.22, 0.10),
    (0.75, 0.45, 0.03),
)
TRUCK_COLOURS: tuple[Colour, ...] = (
    (0.75, 0.75, 0.74),
    (0.55, 0.05, 0.04),
    (0.05, 0.14, 0.45),
    (0.75, 0.50, 0.04),
    (0.06, 0.28, 0.14),
    (0.45, 0.46, 0.48),
)
BUS_COLOURS: tuple[Colour, ...] = ((0.70, 0.08, 0.06), (0.08, 0.40, 0.18), (0.75, 0.75, 0.72), (0.10, 0.20, 0.55))
YELLOW: Colour = (0.75, 0.42, 0.02)
GLASS: Colour = (0.03, 0.04, 0.05)
BLACK: Colour = (0.025, 0.025, 0.028)
GREY: Colour = (0.25, 0.25, 0.26)
WHITE: Colour = (0.75, 0.75, 0.73)


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    base = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.8, 1.15)
    return float(base[0]), float(base[1]), float(base[2])


def _lamps(ln: float, w: float, front_z: float, rear_z: float, size: float = 0.16) -> list[Mesh]:
    """Head and tail lights as small boxes that just show at the ends of the body."""
    lamps = []
    for side in (-1, 1):
        y = side * (w / 2 - 0.05 - size * 0.75)
        lamps.append(box((ln / 2 - 0.05, y, front_z), (0.1, size * 1.5, size), (0.8, 0.8, 0.75), Material.HEADLIGHT))
        lamps.append(
            box((-ln / 2 + 0.04, y, rear_z), (0.08, size * 1.2, size * 1.3), (0.5, 0.02, 0.02), Material.TAILLIGHT)
        )
    return lamps


def _wheels(xs: list[float], w: float, radius: float, width: float = 0.24) -> list[Mesh]:
    return [wheel(x, side * w / 2 * 0.985, radius, width) for x in xs for side in (-1, 1)]


def _car(ln: float, w: float, h: float, rng: np.random.Generator) -> list[Mesh]:
    paint = _pick(rng, CAR_COLOURS)
    style = rng.integers(4)  # sedan, hatchback, estate or SUV, van
    waist = (0.56, 0.56, 0.58, 0.55)[style]
    # Stations along x as fractions of ln: rear glass foot, roof rear, roof front, windscreen foot.
    foot_r, roof_r, roof_f, foot_f = (
        (-0.40, -0.22, 0.08, 0.24),
        (-0.485, -0.36, 0.08, 0.25),
        (-0.49, -0.45, 0.10, 0.25),
        (-0.495, -0.47, 0.28, 0.42),
    )[style]
    top = h * 0.955
    lower = [
        (-0.5, 0.2),
        (-0.5, 0.46),
        (-0.485, waist),
        (foot_f, waist),
        (0.47, waist - 0.1),
        (0.5, waist - 0.18),
        (0.5, 0.2),
    ]
    body = prism(
        [(x * ln, z * h) for x, z in lower],
        [w / 2 * k for k in (0.95, 0.97, 0.94, 0.94, 0.9, 0.93, 0.93)],
        paint,
        Material.PAINT,
    )
    glass = prism(
        [(foot_r * ln, waist * h), (roof_r * ln, top), (roof_f * ln, top), (foot_f * ln, waist * h)],
        [w * 0.45, w * 0.38, w * 0.38, w * 0.45],
        GLASS,
        Material.GLASS,
    )
    roof = prism(
        [((roof_r - 0.01) * ln, top - 0.02), (roof_r * ln, h), (roof_f * ln, h), ((roof_f + 0.01) * ln, top - 0.02)],
        [w * 0.39, w * 0.375, w * 0.375, w * 0.39],
        paint,
        Material.PAINT,
    )
    pillars = []
    for side in (-1, 1):
        low, high = side * w * 0.452, side * w * 0.384
        middle = (foot_r + foot_f) / 2 * ln
        for a, b in ((foot_f, roof_f), (foot_r, roof_r)):
            pillars.append(bar((a * ln, low, waist * h), (b * ln, high, top), 0.07, paint, Material.PAINT))
        pillars.append(bar((middle, low, waist * h), (middle, high, top), 0.08, BLACK, Material.MATTE))
    skirt = box((0, 0, 0.2 * h), (ln * 0.98, w * 0.9, 0.12 * h), BLACK, Material.MATTE)
    plates = [box((s * ln * 0.494, 0, 0.3 * h), (0.012 * ln, 0.5, 0.13), WHITE, Material.REFLECTIVE) for s in (-1, 1)]
    radius = 0.2 * h if h < 1.75 else 0.18 * h
    return [
        body,
        glass,
        roof,
        skirt,
        *pillars,
        *plates,
        *_lamps(ln, w * 0.93, 0.42 * h, 0.48 * h),
        *_wheels([-0.3 * ln, 0.31 * ln], w, radius),
    ]


def _cab(ln: float, w: float, h: float, length: float, paint: Colour) -> list[Mesh]:
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
    sides = [
        box((front - length * 0.42, s * w * 0.482, h * 0.73), (length * 0.5, 0.02, h * 0.27), GLASS, Material.GLASS)
        for s in (-1, 1)
    ]
    grille = box((front - 0.01, 0, h * 0.38), (0.03, w * 0.6, h * 0.16), BLACK, Material.MATTE)
    bumper = box((front - 0.12, 0, 0.5), (0.24, w * 0.94, 0.3), GREY, Material.MATTE)
    mirrors = [
        box((front - 0.2, s * w * 0.485, h * 0.72), (0.08, w * 0.028, 0.4), BLACK, Material.MATTE) for s in (-1, 1)
    ]
    return [shell, screen, *sides, grille, bumper, *mirrors]


def _truck(ln: float, w: float, h: float, rng: np.random.Generator) -> list[Mesh]:
    paint, load = _pick(rng, TRUCK_COLOURS), _pick(rng, TRUCK_COLOURS)
    style = rng.integers(3)  # box body, flat bed with planks, tank
    cab_length = min(2.0, 0.3 * ln)
    cab_h = h * (0.85 if style == 0 else 0.97)
    bed_f = ln / 2 - cab_length - 0.25
    parts = _cab(ln, w, cab_h, cab_length, paint)
    parts.append(span((-ln / 2 + 0.1, -w * 0.3, 0.55), (bed_f + 0.4, w * 0.3, 0.85), BLACK, Material.METAL))
    if style == 0:
        parts.append(span((-ln / 2 + 0.03, -w / 2, 0.9), (bed_f, w / 2, h), load, Material.MATTE))
        parts.append(box((-ln / 2 + 0.015, 0, (0.95 + h) / 2), (0.03, w * 0.9, h - 1.15), GREY, Material.METAL))
        parts += [
            box((-ln * 0.1, s * w * 0.5, h * 0.7), (ln * 0.3, 0.01, h * 0.14), paint, Material.SIGN) for s in (-1, 1)
        ]
    elif style == 1:
        parts.append(span((-ln / 2, -w / 2, 0.9), (bed_f, w / 2, 1.1), GREY, Material.MATTE))
        for s in (-1, 1):
            parts.append(
                box(((bed_f - ln / 2) / 2, s * w * 0.485, 1.4), (bed_f + ln / 2, 0.07, 0.6), load, Material.MATTE)
            )
        parts.append(box((-ln / 2 + 0.04, 0, 1.4), (0.07, w, 0.6), load, Material.MATTE))
        parts.append(
            box(
                ((bed_f - ln / 2) / 2, 0, h * 0.6),
                ((bed_f + ln / 2) * 0.7, w * 0.7, h * 0.35),
                (0.42, 0.30, 0.17),
                Material.MATTE,
            )
        )
    else:
        a = np.arange(10) * 2 * np.pi / 10
        middle = (0.95 + h * 0.93) / 2
        ends = np.column_stack([np.cos(a) * w * 0.48, middle + np.sin(a) * (h * 0.93 - 0.95) / 2])
        tank = prism(ends, 1.0, load, Material.METAL)
        t = tank.triangles.copy()  # prism runs along y; the tank runs along x
        t[..., 0], t[..., 1] = np.where(t[..., 1] > 0, bed_f, -ln / 2 + 0.1), tank.triangles[..., 0]
        parts.append(Mesh(t, tank.colour, tank.material, tank.owner))
    axles = [-0.36 * ln, ln / 2 - cab_length * 0.55] + ([-0.36 * ln + 1.15] if ln > 7 else [])
    return [*parts, *_lamps(ln, w, 0.62, 0.72), *_wheels(axles, w, 0.48, 0.3)]


def _bus(ln: float, w: float, h: float, rng: np.random.Generator) -> list[Mesh]:
    paint, stripe = _pick(rng, BUS_COLOURS), _pick(rng, TRUCK_COLOURS)
    hull = prism(
        [
            (-ln / 2, 0.35),
            (-ln / 2, h * 0.9),
            (-ln / 2 + 0.2, h * 0.97),
            (ln / 2 - 0.3, h * 0.97),
            (ln / 2 - 0.05, h * 0.85),
            (ln / 2 - 0.02, 0.35),
        ],
        w * 0.48,
        paint,
        Material.PAINT,
    )
    parts = [hull, box((-ln * 0.1, 0, h * 0.98), (ln * 0.35, w * 0.6, h * 0.04), WHITE, Material.MATTE)]
    for s in (-1, 1):
        parts.append(box((0, s * w * 0.482, h * 0.62), (ln * 0.94, 0.03, h * 0.3), GLASS, Material.GLASS))
        for k in range(1, int(ln / 1.6)):
            x = -ln * 0.47 + k * ln * 0.94 / int(ln / 1.6)
            parts.append(box((x, s * w * 0.486, h * 0.62), (0.1, 0.03, h * 0.3), paint, Material.PAINT))
        parts.append(box((0, s * w * 0.482, h * 0.3), (ln * 0.9, 0.02, h * 0.07), stripe, Material.MATTE))
    for x in (0.38 * ln, -0.05 * ln):  # doors on the kerb side
        parts.append(box((x, -w * 0.487, h * 0.45), (1.1, 0.025, h * 0.62), GLASS, Material.GLASS))
    parts.append(
        prism(
            [(ln / 2 - 0.025, h * 0.32), (ln / 2, h * 0.32), (ln / 2 - 0.02, h * 0.82), (ln / 2 - 0.06, h * 0.82)],
            w * 0.44,
            GLASS,
            Material.GLASS,
        )
    )
    parts.append(box((ln / 2 - 0.08, 0, h * 0.89), (0.1, w * 0.6, h * 0.07), (0.7, 0.4, 0.05), Material.LAMP))
    parts.append(box((-ln / 2, 0, h * 0.7), (0.02, w * 0.8, h * 0.22), GLASS, Material.GLASS))
    return [*parts, *_lamps(ln, w, 0.6, 0.75, 0.22), *_wheels([-0.26 * ln, 0.32 * ln], w, 0.5, 0.3)]


def _trailer(ln: float, w: float, h: float, rng: np.random.Generator) -> list[Mesh]:
    load = _pick(rng, TRUCK_COLOURS)
    floor = 1.15 if ln > 7.5 else 0.75
    parts = [span((-ln / 2 + 0.05, -w * 0.28, floor - 0.35), (ln / 2 - 0.3, w * 0.28, floor), BLACK, Material.METAL)]
    style = rng.integers(3)  # closed box with ribs, curtain side, container on a bare chassis
    front = ln / 2 - (0.0 if style < 2 else 0.4)
    parts.append(span((-ln / 2 + 0.04, -w * 0.49, floor), (front, w * 0.49, h), load, Material.MATTE))
    ribs = 3 if style == 1 else int(ln / 0.9)
    for k in range(1, ribs):
        x = -ln / 2 + k * (front + ln / 2) / ribs
        for s in (-1, 1):
            parts.append(box((x, s * w * 0.493, (floor + h) / 2), (0.08, 0.035, h - floor), GREY, Material.METAL))
    for s in (-1, 1):  # doors, underride bar stripes, landing legs, side guards
        parts.append(
            box(
                (-ln / 2 + 0.02, s * w * 0.24, (floor + h) / 2),
                (0.04, w * 0.44, h - floor - 0.2),
                WHITE,
                Material.METAL,
            )
        )
        parts.append(box((ln * 0.24, s * w * 0.3, floor * 0.42), (0.15, 0.15, floor * 0.8), GREY, Material.METAL))
        parts.append(box((0.02 * ln, s * w * 0.48, floor * 0.62), (ln * 0.34, 0.05, 0.3), GREY, Material.METAL))
        for k in range(3):
            parts.append(
                box(
                    (-ln / 2 + 0.04, s * w * (0.1 + 0.13 * k), floor - 0.42),
                    (0.06, w * 0.13, 0.16),
                    (0.7, 0.03, 0.03) if k % 2 else WHITE,
                    Material.REFLECTIVE,
                )
            )
    radius = 0.46 if floor > 1 else 0.34
    axles = [-ln / 2 + 0.4 + radius + 1.2 * k for k in range(3 if ln > 9 else 2)]
    tails = _lamps(ln, w, floor - 0.15, floor - 0.15)[1::2]
    return [*parts, *tails, *_wheels(axles, w, radius, 0.3)]


def _tracks(ln: float, w: float, height: float) -> list[Mesh]:
    tracks = []
    for s in (-1, 1):
        track = prism(
            [
                (-ln * 0.5, height * 0.5),
                (-ln * 0.42, height),
                (ln * 0.42, height),
                (ln * 0.5, height * 0.5),
                (ln * 0.42, 0),
                (-ln * 0.42, 0),
            ],
            w * 0.11,
            BLACK,
            Material.RUBBER,
        )
        tracks.append(track.placed(0, s * w * 0.39, 0, 0))
    return tracks


def _construction(ln: float, w: float, h: float, rng: np.random.Generator) -> list[Mesh]:
    paint = _pick(rng, (YELLOW, YELLOW, (0.7, 0.22, 0.03)))
    if rng.random() < 0.55:  # excavator: tracks, house at the rear, boom, stick and bucket in front
        under = _tracks(ln * 0.55, w, 0.8)
        under = [t.placed(-ln * 0.2, 0, 0, 0) for t in under]
        house = span((-ln * 0.5, -w * 0.42, 0.95), (-ln * 0.02, w * 0.42, 0.95 + h * 0.33), paint, Material.PAINT)
        counter = span((-ln * 0.5, -w * 0.45, 0.9), (-ln * 0.38, w * 0.45, 0.9 + h * 0.36), BLACK, Material.METAL)
        cab = span((-ln * 0.17, w * 0.05, 0.95), (ln * 0.06, w * 0.42, h), paint, Material.PAINT)
        panes = [span((-ln * 0.15, w * 0.07, h * 0.6), (ln * 0.065, w * 0.43, h * 0.95), GLASS, Material.GLASS)]
        base, elbow = (-ln * 0.02, -w * 0.1, 1.3), (ln * 0.22, -w * 0.1, h * 0.93)
        wrist = (ln * 0.45, -w * 0.1, h * 0.4)
        arm = [bar(base, elbow, 0.42, paint, Material.PAINT), bar(elbow, wrist, 0.32, paint, Material.PAINT)]
        bucket = prism(
            [(ln * 0.36, 0.1), (ln * 0.36, h * 0.3), (ln * 0.47, h * 0.42), (ln * 0.5, h * 0.15)],
            w * 0.22,
            GREY,
            Material.METAL,
        ).placed(0, -w * 0.1, 0, 0)
        return [*under, house, counter, cab, *panes, *arm, bucket]
    # Wheel loader: big wheels, engine at the rear, cabin in the middle, arms and a wide bucket in front.
    engine = span((-ln * 0.5, -w * 0.32, 0.7), (-ln * 0.08, w * 0.32, h * 0.62), paint, Material.PAINT)
    grille = box((-ln * 0.5, 0, h * 0.42), (0.02, w * 0.5, h * 0.25), BLACK, Material.MATTE)
    front = span((-ln * 0.08, -w * 0.25, 0.6), (ln * 0.24, w * 0.25, h * 0.45), paint, Material.PAINT)
    cab = span((-ln * 0.16, -w * 0.28, h * 0.5), (ln * 0.06, w * 0.28, h * 0.97), GLASS, Material.GLASS)
    roof = span((-ln * 0.18, -w * 0.3, h * 0.95), (ln * 0.08, w * 0.3, h), paint, Material.PAINT)
    posts = [
        bar((x * ln, s * w * 0.285, h * 0.5), (x * ln, s * w * 0.285, h * 0.96), 0.1, paint, Material.PAINT)
        for x in (-0.155, 0.055)
        for s in (-1, 1)
    ]
    arms = [
        bar((ln * 0.02, s * w * 0.2, h * 0.5), (ln * 0.4, s * w * 0.2, 0.7), 0.25, paint, Material.PAINT)
        for s in (-1, 1)
    ]
    bucket = prism(
        [(ln * 0.36, 0.15), (ln * 0.35, 1.2), (ln * 0.42, 1.25), (ln * 0.5, 0.12)], w * 0.5, GREY, Material.METAL
    )
    return [
        engine,
        grille,
        front,
        cab,
        roof,
        *posts,
        *arms,
        bucket,
        *_wheels([-0.27 * ln, 0.2 * ln], w * 0.98, 0.7, 0.5),
    ]


_BUILDERS = {"car": _car, "truck": _truck, "bus": _bus, "trailer": _trailer, "construction_vehicle": _construction}


def vehicle(name: str, size_lwh: tuple[float, float, float], style: int) -> Mesh:
    """The mesh of a car, truck, bus, trailer or construction vehicle of this size, about its gravity centre."""
    ln, w, h = size_lwh
    parts = _BUILDERS[name](ln, w, h, np.random.default_rng(style))
    return join(parts).placed(0, 0, -h / 2, 0)
