"""The walls of houses close to: five ways of building, panes that mirror the sky each a little otherwise, blinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.world.noise import draws, fractal, grain

Floats32 = NDArray[np.float32]
F = np.float32


@dataclass(frozen=True)
class Wall:
    """One way to build: metres between windows and between storeys, and the share of each that is glass (from, to)."""

    width: float
    storey: float
    across: tuple[float, float]
    up: tuple[float, float]
    frame: float  # of a pane, metres
    gloss: float


WALLS = (
    Wall(2.6, 3.0, (0.24, 0.76), (0.30, 0.80), 0.06, 0.45),  # plaster, single windows
    Wall(2.0, 2.9, (0.28, 0.72), (0.28, 0.82), 0.05, 0.40),  # brick
    Wall(1.5, 3.6, (0.02, 0.98), (0.06, 0.96), 0.04, 0.75),  # a curtain of glass
    Wall(3.0, 3.4, (0.00, 1.00), (0.38, 0.82), 0.05, 0.55),  # bands of windows between bands of concrete
    Wall(3.8, 3.0, (0.15, 0.85), (0.08, 0.86), 0.07, 0.50),  # balcony doors behind railings
)
BRICK = 1
BALCONIES = 4


def clad(
    point: Floats32,
    normal: Floats32,
    colour: Floats32,
    footprint: Floats32,
    lamps_on: float,
) -> tuple[Floats32, Floats32, Floats32, Floats32]:
    """Albedo (N, 3), normal (N, 3), gloss (N,) and glow (N, 3) of points on upright walls of houses.

    `colour` is the house's, which also decides how it is built; `footprint` (N,) is the width of a pixel there, m.
    """
    house = np.round(colour.sum(1) * F(4096)).astype(np.int32)
    kind = (draws(house) * len(WALLS)).astype(np.int32)
    table = np.array([(w.width, w.storey, *w.across, *w.up, w.frame, w.gloss) for w in WALLS], F)[kind].T
    width, storey, left, right, low, high, frame, shine = table
    along: Floats32 = normal[:, 0] * point[:, 1] - normal[:, 1] * point[:, 0]
    height: Floats32 = point[:, 2]
    u, v = along / width, height / storey
    cu, cv = np.floor(u), np.floor(v)
    fu, fv = u - cu, v - cv
    # Metres inside the opening (negative: outside), and how much of the pixel that makes.
    inside = np.minimum(
        np.minimum(fu - left, right - fu) * width,
        np.minimum(fv - low, high - fv) * storey,
    )
    blur = np.maximum(footprint, F(0.01))
    opening = np.clip(inside / blur + F(0.5), 0, 1)
    pane = np.clip((np.minimum(inside, np.abs(fu - F(0.5)) * width) - frame) / blur + F(0.5), 0, 1) * opening

    wall = (
        colour
        * (
            F(1)
            + F(0.22) * fractal(along * F(3), height * F(0.35), 3)  # rain runs down
            + F(0.10) * grain(along, height, 30, footprint)
        )[:, None]
    )
    wall *= (F(1) - F(0.35) * np.clip(F(1) - height / F(0.9), 0, 1))[:, None]  # splashes
    brick = np.flatnonzero(kind == BRICK)
    if len(brick):
        row = np.floor(height[brick] / F(0.075))
        column = np.floor(along[brick] / F(0.22) + F(0.5) * (row % 2))
        seen = np.clip(F(0.075) / blur[brick], 0, 1)
        wall[brick] *= (F(1) + F(0.3) * (draws(row, column, house[brick]) - F(0.5)) * seen)[:, None]
    # A dark line under the lintel, a pale one along the sill.
    edge = np.clip(F(1) - np.abs((fv - high) * storey) / np.maximum(blur, F(0.08)), 0, 1)
    wall *= (F(1) - F(0.45) * edge * (fu > left) * (fu < right))[:, None]

    window = draws(cu, cv, house)
    albedo = wall + (F(0.42) - wall) * opening[:, None]  # frames
    drawn = window < 0.45  # a blind or curtain from above
    blind = drawn & (fv > high - (high - low) * (window / F(0.45)))
    behind = np.where(blind[:, None], np.array([0.34, 0.32, 0.28], F), np.array([0.02, 0.023, 0.026], F))
    albedo += (behind - albedo) * pane[:, None]
    railing = np.flatnonzero((kind == BALCONIES) & (fv < 0.38))
    if len(railing):
        bars = np.where(blur[railing] < 0.06, (along[railing] / F(0.12)) % 1 < 0.25, F(0.25))
        slab = fv[railing] < 0.05
        albedo[railing] *= (F(1) - F(0.7) * np.where(slab, F(0), bars))[:, None]

    gloss = shine * pane * np.where(blind, F(0.5), F(1))
    tilt = (np.stack([draws(cu, cv, house + k) for k in (1, 2, 3)], 1) - F(0.5)) * (F(0.06) * pane)[:, None]
    lit = (window > 1 - 0.3 * lamps_on) * pane * F(lamps_on if lamps_on > 0.3 else 0)
    glow = lit[:, None] * np.array([0.16, 0.11, 0.05], F)
    return albedo, normal + tilt, gloss, glow
