"""The image corruptions of RoboBEV (Xie et al., 2023), whose weather is ImageNet-C's (Hendrycks and Dietterich, 2019).

Lengths in pixels are those of nuScenes' images, 1600 wide; on narrower ones they shrink alike. `level` is ImageNet-C's,
1 to 5, unless a function says otherwise. Every function takes an image (H, W, 3) uint8 BGR and returns such a one.
"""

from __future__ import annotations

import cv2
import numpy as np

WIDTH = 1600
BLUR = ((10, 3.0), (15, 5.0), (15, 8.0), (15, 12.0), (20, 15.0))  # radius, sigma
BRIGHTER = (0.1, 0.2, 0.3, 0.4, 0.5)
DARK_SCALE = (0.6, 0.5, 0.4, 0.3, 0.2)  # read at [level], not [level - 1], as the authors' code does; so are the next
PHOTONS = (60.0, 25.0, 12.0, 5.0, 3.0)
READ_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
FOG = ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))  # thickness, decay
# mean, deviation, zoom, threshold, blur's radius and sigma, share of the image that stays
SNOW = (
    (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8), (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7), (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65), (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
)  # fmt: skip


def motion_blur(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Along a direction of -45 to 45 degrees."""
    return _blur(image, *BLUR[level - 1], rng.uniform(-45.0, 45.0))


def quantise_colours(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """To 5 - `level` bits of each colour."""
    dropped = 8 - (5 - level)
    return (image >> dropped) << dropped


def brighten(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """More of V in HSV."""
    hsv = cv2.cvtColor(image.astype(np.float32) / 255.0, cv2.COLOR_BGR2HSV)
    hsv[..., 2] = np.clip(hsv[..., 2] + BRIGHTER[level - 1], 0.0, 1.0)
    return _eight_bits(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR))


def darken(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A gamma of 2 over the image's own range, and the noise of few photons and of reading; level 2 to 4."""
    values = image.astype(np.float32) / 255.0
    low, high = float(values.min()), float(values.max())
    values = DARK_SCALE[level] * ((values - low) / max(high - low, 1e-6)) ** 2
    photons = 10.0 * PHOTONS[level]
    values = rng.poisson(values * photons).astype(np.float32) / photons
    return _eight_bits(values + rng.normal(0.0, 0.1 * READ_NOISE[level], values.shape))


def fog(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """A plasma fractal over the image, which keeps its brightest value."""
    thickness, decay = FOG[level - 1]
    values = image.astype(np.float32) / 255.0
    height, width = values.shape[:2]
    size = 1 << int(max(height, width) - 1).bit_length()
    veil = plasma(size, decay, rng)[:height, :width, None]
    top = float(values.max())
    return _eight_bits((values + thickness * veil) * (top / (top + thickness)))


def snow(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Flakes that fall at a slant, over an image that is paler."""
    mean, deviation, zoom, threshold, radius, sigma, kept = SNOW[level - 1]
    values = image.astype(np.float32) / 255.0
    height, width = values.shape[:2]
    wide = max(width, WIDTH)  # flakes are pixels of a full-size image
    flakes = _zoomed(rng.normal(mean, deviation, (round(height * wide / width), wide)).astype(np.float32), zoom)
    flakes[flakes < threshold] = 0.0
    fallen = _blur(_eight_bits(flakes), radius, sigma, rng.uniform(-135.0, -45.0)).astype(np.float32) / 255.0
    fallen = np.asarray(cv2.resize(fallen, (width, height), interpolation=cv2.INTER_AREA), dtype=np.float32)
    grey = cv2.cvtColor(values, cv2.COLOR_BGR2GRAY)[..., None]
    values = kept * values + (1.0 - kept) * np.maximum(values, grey * 1.5 + 0.5)
    return _eight_bits(values + fallen[..., None] + np.rot90(fallen, 2)[..., None])


def plasma(size: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """(size, size) float32 from 0 to 1: the diamond-square fractal whose edges meet; size is a power of two.

    Each halving of the step divides the noise by `decay`.
    """
    values = np.zeros((size, size), dtype=np.float32)
    step, noise = size, 100.0
    while step >= 2:
        half = step // 2
        corners = values[::step, ::step]
        squares = corners + np.roll(corners, -1, axis=0)
        squares = (squares + np.roll(squares, -1, axis=1)) / 4
        values[half::step, half::step] = squares + noise * rng.uniform(-1.0, 1.0, squares.shape)
        middles = values[half::step, half::step]
        for rows, columns, near in (
            (slice(None, None, step), slice(half, None, step), (middles, np.roll(middles, 1, axis=0))),
            (slice(half, None, step), slice(None, None, step), (middles, np.roll(middles, 1, axis=1))),
        ):
            along = 1 if rows.start is None else 0
            diamonds = (near[0] + near[1] + corners + np.roll(corners, -1, axis=along)) / 4
            values[rows, columns] = diamonds + noise * rng.uniform(-1.0, 1.0, diamonds.shape)
        step, noise = half, noise / decay
    values -= values.min()
    return values / max(float(values.max()), 1e-6)


def _blur(image: np.ndarray, radius: int, sigma: float, degrees: float) -> np.ndarray:
    """One-sided Gaussian along a direction, as ImageMagick's motion blur: a tail of 2 * radius + 1 pixels."""
    scale = image.shape[1] / WIDTH
    reach, sigma = max(1, round(2 * radius * scale)), max(sigma * scale, 0.3)
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), dtype=np.float32)
    steps, angle = np.arange(reach + 1), np.radians(degrees)
    rows, columns = np.rint(reach + steps * np.sin(angle)), np.rint(reach + steps * np.cos(angle))
    np.add.at(kernel, (rows.astype(int), columns.astype(int)), weights.astype(np.float32))
    return cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE)


def _zoomed(values: np.ndarray, factor: float) -> np.ndarray:
    """The middle of an image, enlarged to its size."""
    height, width = values.shape
    rows, columns = int(np.ceil(height / factor)), int(np.ceil(width / factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    return cv2.resize(values[top : top + rows, left : left + columns], (width, height), interpolation=cv2.INTER_LINEAR)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)
