"""What is painted on the bodies of actors: dirt, door gaps, lettering, patterns of cloth, folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.tables.vocabulary import CATEGORY_OF
from training.world.mesh import Material
from training.world.noise import covered, draws, fractal
from training.world.raycast import Hits
from training.world.world import World

Floats32 = NDArray[np.float32]
F = np.float32

DUST = np.array([0.17, 0.145, 0.115], F)
SEAMS = (-0.17, 0.05, 0.25)  # where doors meet, as shares of a car's length from its middle
LETTER_M = 0.36
_CLASS = {name: index for index, name in enumerate(CATEGORY_OF)}
LETTERED = [_CLASS[name] for name in ("truck", "trailer", "bus")]
DRIVEN = [*LETTERED, _CLASS["car"], _CLASS["construction_vehicle"]]


@dataclass(frozen=True)
class Skin:
    """N places on actors, in the actor's own frame: metres along, across and above the ground, the facing of a flank
    (`side`), its length and height, the number that its looks are drawn from, and the width of a pixel there (m)."""

    along: Floats32
    across: Floats32
    up: Floats32
    side: NDArray[np.bool_]
    length: Floats32
    height: Floats32
    style: NDArray[np.int64]
    pixel: Floats32

    def at(self, where: NDArray[np.intp]) -> Skin:
        return Skin(*(getattr(self, name)[where] for name in Skin.__dataclass_fields__))

    def colour(self, first: int) -> Floats32:
        """A colour of the actor's own, (N, 3): three draws of it."""
        return np.stack([draws(self.style, first + k) for k in range(3)], 1)


def decorate(world: World, hits: Hits, albedo: Floats32, stamp_ns: int, footprint: Floats32) -> None:
    """Changes `albedo` (N, 3) in place where rays met actors; `footprint` (N,) is the width of a pixel there, m."""
    at = np.flatnonzero(hits.owner >= 0)
    if not len(at):
        return
    owner, material = hits.owner[at], hits.material[at]
    x, y, yaw = world.poses(stamp_ns).astype(F)[owner].T
    c, s = np.cos(yaw), np.sin(yaw)
    dx, dy = hits.point[at, 0] - x, hits.point[at, 1] - y
    n = hits.normal[at]
    length, _, height = np.array([actor.size_lwh for actor in world.actors], F)[owner].T
    skin = Skin(
        c * dx + s * dy,
        c * dy - s * dx,
        hits.point[at, 2],
        np.abs(c * n[:, 1] - s * n[:, 0]) > np.abs(c * n[:, 0] + s * n[:, 1]),
        length,
        height,
        np.array([actor.style for actor in world.actors])[owner],
        footprint[at],
    )
    name = np.array([_CLASS[actor.name] for actor in world.actors])[owner]
    painted = (material == Material.PAINT) | (material == Material.MATTE)
    colour = albedo[at]
    for where, change in (
        (painted & (name == _CLASS["car"]) & skin.side & (skin.up > 0.25 * skin.height), _doors),
        (painted & np.isin(name, LETTERED), _letters),
        (material == Material.CLOTH, _cloth),
        (np.isin(name, DRIVEN) & (material != Material.GLASS), _dirt),
    ):
        on = np.flatnonzero(where)
        if len(on):
            colour[on] = change(colour[on], skin.at(on))
    albedo[at] = colour


def _doors(colour: Floats32, skin: Skin) -> Floats32:
    gap = np.min([np.abs(skin.along - F(seam) * skin.length) for seam in SEAMS], axis=0)
    return colour * (F(1) - F(0.75) * covered(gap, 0.012, skin.pixel))[:, None]


def _letters(colour: Floats32, skin: Skin) -> Floats32:
    """A firm's name and stripe on the flanks and the rear of what carries loads or people; not on every one."""
    size_of = draws(skin.style, 10)
    a = np.where(skin.side, skin.along, skin.across)
    size = np.minimum(F(LETTER_M) * (F(1) + 2 * size_of), skin.height * F(0.25))
    row, column = (skin.up - skin.height * (F(0.5) + F(0.15) * size_of)) / size, a / (size * F(0.7))
    # Every letter is 3 x 5 dots, drawn by lot; words end at gaps.
    letter = np.floor(column)
    dot = np.floor((column - letter) * 4), np.floor(row * 5)
    inked = (draws(letter, *dot, skin.style) < 0.6) & (dot[0] < 3) & (draws(letter, skin.style) < 0.85)
    fine = np.clip(size / 5 / skin.pixel - F(0.5), 0, 1)  # letters too small for the pixels are a grey band
    reach = np.where(skin.side, skin.length * (F(0.2) + F(0.2) * size_of), F(0.8))
    written = (row >= 0) & (row < 1) & (np.abs(a) < reach)
    amount = np.where(written, inked * fine + F(0.45) * (1 - fine), F(0))
    stripe = covered(skin.up - skin.height * (F(0.25) + F(0.1) * size_of), 0.07, skin.pixel) * F(0.8)
    amount = np.where(draws(skin.style, 9) < 0.7, np.maximum(amount, stripe), F(0))
    return colour + (skin.colour(11) * F(0.7) - colour) * amount[:, None]


def _cloth(colour: Floats32, skin: Skin) -> Floats32:
    """Stripes, checks or a print on some shirts; folds in all cloth."""
    kind = draws(skin.style, 21)
    around = np.arctan2(skin.across, skin.along) * F(0.3)
    period = F(0.07) + F(0.08) * draws(skin.style, 22)
    stripe = (skin.up / period) % 1 < 0.5
    check = stripe ^ ((around / period) % 1 < 0.5)
    blot = fractal(around, skin.up, 110) > 0.25
    mark = np.select([kind < 0.2, kind < 0.3, kind < 0.4], [stripe, check, blot], False)
    seen = np.clip(period / skin.pixel - F(0.5), 0, 1)
    torso = (kind < 0.4) & (skin.up > F(0.5) * skin.height)
    amount = np.where(torso, mark * seen + F(0.5) * (1 - seen), F(0))
    patterned = colour + (skin.colour(23) * F(0.6) - colour) * amount[:, None]
    folds = fractal(around * 2, skin.up * F(0.6), 60) * np.clip(F(0.08) / skin.pixel, F(0.2), 1)
    return patterned * (F(1) + F(0.35) * folds)[:, None]


def _dirt(colour: Floats32, skin: Skin) -> Floats32:
    much = draws(skin.style, 5) ** 2
    low = np.clip(F(1) - skin.up / (F(0.45) * skin.height), 0, 1)
    spots = F(0.6) + F(0.4) * fractal(skin.along + skin.across, skin.up * 2, 40)
    return colour + (DUST - colour) * (much * (F(0.12) + F(0.75) * low) * spots)[:, None]
