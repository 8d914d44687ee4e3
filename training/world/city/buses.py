"""The bodies of buses: city bus, coach, double-decker and minibus."""

from __future__ import annotations

import numpy as np

from training.world.city.paints import BLACK, DARK, FLEET_PAINTS, GLASS, WHITE, dirty, draw_paint
from training.world.city.vehicle_parts import RIMS, arches, lamps, mirrors, wheels
from training.world.mesh import Material, Mesh, box, panel, prism

# Rows of windows as (middle, height) in shares of the height; the doors' places in shares of the length.
_WINDOWS = {
    "city_bus": ((0.62, 0.30),),
    "coach": ((0.70, 0.30),),
    "double_decker": ((0.38, 0.17), (0.76, 0.18)),
    "minibus": ((0.68, 0.26),),
}
_DOORS = {"city_bus": (0.38, -0.05, -0.33), "coach": (0.40,), "double_decker": (0.40, 0.02), "minibus": (0.24,)}


def bus(ln: float, w: float, h: float, kind: str, rng: np.random.Generator) -> list[Mesh]:
    paint, stripe = dirty(draw_paint(rng, FLEET_PAINTS), rng), draw_paint(rng, FLEET_PAINTS)
    nose = {"minibus": 0.9, "coach": 0.25}.get(kind, 0.06)  # how far the windscreen leans back
    foot = 0.42 if kind == "minibus" else 0.32
    side_profile = [
        (-ln / 2 + 0.01, 0.3),
        (-ln / 2 + 0.01, h * 0.9),
        (-ln / 2 + 0.2, h * 0.97),
        (ln / 2 - nose - 0.25, h * 0.97),
        (ln / 2 - nose, h * 0.88),
        (ln / 2 - 0.02, h * foot),
        (ln / 2 - 0.02, 0.3),
    ]
    parts = [prism(side_profile, w * 0.48, paint, Material.PAINT)]
    parts.append(box((-ln * 0.1, 0, h * 0.985), (ln * 0.35, w * 0.6, h * 0.03), WHITE, Material.MATTE))
    bays = max(3, int(ln / 1.6))
    front_end = ln * 0.47 - nose * 0.7
    two_tone = rng.random() < 0.5
    for s in (-1, 1):
        for middle, tall in _WINDOWS[kind]:
            pane = ((front_end - ln * 0.47) / 2, s * w * 0.482, h * middle)
            parts.append(panel(pane, (front_end + ln * 0.47, 0.0, h * tall), GLASS, Material.GLASS))
            for k in range(1, bays):
                x = -ln * 0.47 + k * (front_end + ln * 0.47) / bays
                parts.append(panel((x, s * w * 0.485, h * middle), (0.09, 0.0, h * tall), paint, Material.PAINT))
        low, tall = (h * 0.22, h * 0.22) if two_tone else (h * 0.3, h * 0.06)
        parts.append(panel((-0.02 * ln, s * w * 0.4815, low), (ln * 0.92, 0.0, tall), stripe, Material.PAINT))
        if rng.random() < 0.4:  # an advertisement
            poster = (float(rng.uniform(-0.2, 0.1)) * ln, s * w * 0.484, h * 0.33)
            parts.append(panel(poster, (ln * 0.22, 0.0, h * 0.17), draw_paint(rng, FLEET_PAINTS), Material.SIGN))
    for x in _DOORS[kind]:  # on the kerb side
        tall = 2.0 / h
        parts.append(panel((x * ln, -w * 0.488, 0.35 + h * tall / 2), (1.15, 0.0, h * tall), GLASS, Material.GLASS))
        parts.append(panel((x * ln, -w * 0.4895, 0.35 + h * tall / 2), (0.05, 0.0, h * tall), DARK, Material.MATTE))
    top = 0.97 if kind == "double_decker" else 0.88
    lean = nose * (top - 0.02 - foot) / (0.88 - foot) if nose > 0.1 else 0.05
    parts.append(
        prism(
            [
                (ln / 2 - 0.022, h * (foot + 0.01)),
                (ln / 2 - 0.004, h * (foot + 0.01)),
                (ln / 2 - lean, h * (top - 0.02)),
                (ln / 2 - lean - 0.06, h * (top - 0.02)),
            ],
            w * 0.44,
            GLASS,
            Material.GLASS,
        )
    )
    if kind in ("city_bus", "double_decker"):
        at = h * (0.92 if kind == "city_bus" else 0.55)
        parts.append(box((ln / 2 - 0.05, 0, at), (0.09, w * 0.6, 0.24), (0.7, 0.4, 0.05), Material.LAMP))
    parts.append(panel((-ln / 2 + 0.004, 0, h * 0.7), (0.0, w * 0.8, h * 0.2), GLASS, Material.GLASS))
    parts += mirrors(ln / 2 - 0.12 - nose * 0.4, w * 0.488, h * 0.5, (0.1, w * 0.022, 0.35), BLACK)
    axles = [-0.28 * ln, 0.30 * ln] if kind != "minibus" else [-0.28 * ln, 0.33 * ln]
    radius = 0.36 if kind == "minibus" else 0.5
    rim = RIMS[rng.integers(len(RIMS))]
    wheels_ = [*arches(axles, w * 0.4885, radius), *wheels(axles, w, radius, 0.3, rim)]
    return [*parts, *lamps(ln, w, 0.6, 0.75, 0.22), *wheels_]
