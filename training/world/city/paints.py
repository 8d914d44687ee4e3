"""The colours of paint, cloth and skin, as linear RGB albedo, and how often vehicles wear them."""

from __future__ import annotations

import colorsys

import numpy as np

from training.world.mesh import Colour, tinted

YELLOW: Colour = (0.75, 0.42, 0.02)
ORANGE: Colour = (0.85, 0.19, 0.02)
RED: Colour = (0.65, 0.03, 0.03)
HI_VIS: Colour = (0.75, 0.75, 0.03)
GLASS: Colour = (0.03, 0.04, 0.05)
BLACK: Colour = (0.025, 0.025, 0.028)
DARK: Colour = (0.012, 0.012, 0.013)
GREY: Colour = (0.25, 0.25, 0.26)
WHITE: Colour = (0.75, 0.75, 0.73)
DIRT: Colour = (0.16, 0.13, 0.10)

# (share, hue, saturation, value), each from where to where. Most cars are white, black, grey or silver, then blue and
# red, few are anything else: the order of every survey of car colours; the shares are rounded assumptions.
_Paint = tuple[float, tuple[float, float], tuple[float, float], tuple[float, float]]
CAR_PAINTS: tuple[_Paint, ...] = (
    (0.27, (0.0, 1.0), (0.0, 0.03), (0.66, 0.82)),  # white
    (0.20, (0.0, 1.0), (0.0, 0.15), (0.015, 0.05)),  # black
    (0.16, (0.5, 0.7), (0.0, 0.12), (0.08, 0.30)),  # greys
    (0.09, (0.5, 0.7), (0.0, 0.06), (0.38, 0.55)),  # silver
    (0.10, (0.54, 0.66), (0.45, 0.95), (0.08, 0.50)),  # blue
    (0.08, (-0.03, 0.02), (0.75, 0.97), (0.16, 0.60)),  # red
    (0.04, (0.06, 0.12), (0.3, 0.65), (0.10, 0.55)),  # brown and beige
    (0.03, (0.25, 0.47), (0.3, 0.9), (0.05, 0.40)),  # green
    (0.02, (0.03, 0.07), (0.85, 0.98), (0.55, 0.80)),  # orange
    (0.01, (0.11, 0.15), (0.8, 0.98), (0.60, 0.85)),  # yellow
)
FLEET_PAINTS: tuple[_Paint, ...] = (
    (0.42, (0.0, 1.0), (0.0, 0.04), (0.62, 0.80)),
    (0.08, (0.5, 0.7), (0.0, 0.1), (0.12, 0.5)),
    (0.13, (0.55, 0.65), (0.6, 0.95), (0.2, 0.55)),
    (0.12, (-0.03, 0.03), (0.75, 0.97), (0.35, 0.65)),
    (0.09, (0.10, 0.14), (0.85, 0.98), (0.55, 0.80)),
    (0.08, (0.28, 0.45), (0.5, 0.9), (0.15, 0.45)),
    (0.05, (0.04, 0.08), (0.8, 0.97), (0.5, 0.75)),
    (0.03, (0.72, 0.92), (0.4, 0.8), (0.2, 0.5)),
)
CLOTHES: tuple[_Paint, ...] = (
    (0.24, (0.0, 1.0), (0.0, 0.3), (0.02, 0.08)),
    (0.16, (0.55, 0.68), (0.3, 0.9), (0.06, 0.45)),
    (0.12, (0.0, 1.0), (0.0, 0.08), (0.5, 0.75)),
    (0.14, (0.0, 1.0), (0.0, 0.12), (0.12, 0.42)),
    (0.10, (-0.04, 0.04), (0.6, 0.95), (0.25, 0.65)),
    (0.08, (0.06, 0.12), (0.3, 0.7), (0.15, 0.55)),
    (0.16, (0.0, 1.0), (0.3, 0.95), (0.15, 0.75)),
)
TROUSERS: tuple[_Paint, ...] = (
    (0.40, (0.58, 0.66), (0.3, 0.75), (0.05, 0.28)),  # jeans
    (0.30, (0.0, 1.0), (0.0, 0.2), (0.02, 0.07)),
    (0.15, (0.08, 0.12), (0.25, 0.5), (0.18, 0.45)),
    (0.10, (0.0, 1.0), (0.0, 0.1), (0.15, 0.6)),
    (0.05, (0.0, 1.0), (0.3, 0.8), (0.1, 0.5)),
)
HAIR: tuple[_Paint, ...] = (
    (0.45, (0.05, 0.09), (0.0, 0.5), (0.015, 0.05)),
    (0.30, (0.05, 0.09), (0.5, 0.75), (0.06, 0.18)),
    (0.15, (0.09, 0.13), (0.45, 0.7), (0.25, 0.5)),
    (0.10, (0.0, 1.0), (0.0, 0.05), (0.3, 0.65)),
)


def draw_paint(rng: np.random.Generator, paints: tuple[_Paint, ...]) -> Colour:
    """A colour of a table by its shares."""
    shares = np.array([paint[0] for paint in paints])
    _, hue, saturation, value = paints[rng.choice(len(paints), p=shares / shares.sum())]
    return colorsys.hsv_to_rgb(rng.uniform(*hue) % 1.0, rng.uniform(*saturation), rng.uniform(*value))


def draw_skin(rng: np.random.Generator) -> Colour:
    """From very dark to very light skin, evenly."""
    dark, light = np.array([0.075, 0.04, 0.028]), np.array([0.62, 0.43, 0.34])
    r, g, b = (dark * (light / dark) ** rng.random()).tolist()
    return r, g, b


def dirty(colour: Colour, rng: np.random.Generator) -> Colour:
    """The paint under more or less dust, mostly little."""
    share = 0.45 * rng.random() ** 3
    r, g, b = (c * (1 - share) + d * share for c, d in zip(colour, DIRT))
    return r, g, b


def lighter_or_darker(colour: Colour, rng: np.random.Generator) -> Colour:
    return tinted(colour, float(rng.uniform(0.75, 1.2)))
