"""What tells a photograph from a drawn picture: pure functions of images, and the table of them over many.

Every image is looked at in one size, since a smaller one has other edges and less noise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from training.world.statistic import Statistic, distribution

Floats = NDArray[np.float64]
Image = NDArray[np.uint8]

WIDTH = 352
BANDS = ((2, 8), (8, 24), (24, 64), (64, 128))  # cycles over the image's width
BLOCK = 16
DARK, BRIGHT = 16, 250
PARTS = {"upper third": (0.0, 0.35), "lower third": (0.65, 1.0)}


@dataclass(frozen=True)
class Picture:
    """An image (h, w, 3) uint8 BGR and where it is from: those of one drive go together in the errors."""

    bgr: Image
    drive: str


def at_width(bgr: Image, width: int = WIDTH) -> Image:
    """The image at this width, every pixel the mean of what it covers.

    Raises ValueError for one that would have to grow: it lacks what is asked for here.
    """
    h, w = bgr.shape[:2]
    if w < width:
        raise ValueError(f"an image is {w} pixels wide, fewer than the {width} that images are compared at")
    if w == width:
        return bgr
    return np.asarray(cv2.resize(bgr, (width, round(h * width / w)), interpolation=cv2.INTER_AREA), np.uint8)


def grey(bgr: Image) -> Floats:
    """(h, w) float64 in 0..1, as displayed."""
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY).astype(np.float64) / 255


def octaves(image: Floats) -> list[float]:
    """log10 of the mean power of (h, w) at the frequencies of each of BANDS, over rows and columns, windowed.

    White noise is as strong in all; photographs fall about as 1 / frequency**2 (Field, JOSA A 4, 1987).
    """
    h, w = image.shape
    window = np.hanning(h)[:, None] * np.hanning(w)[None]
    power = np.abs(np.fft.fft2((image - image.mean()) * window)) ** 2 / (window**2).sum()
    # Cycles over the width in both directions, so that a band is a ring of the same fineness.
    frequency = np.hypot(np.fft.fftfreq(h)[:, None] * w, np.fft.fftfreq(w)[None] * w)
    return [float(np.log10(power[(frequency >= low) & (frequency < high)].mean() + 1e-12)) for low, high in BANDS]


def slope(image: Floats) -> float:
    """By how many powers of ten the power falls from the coarsest to the finest band, for each ten of frequency."""
    middle = np.log10([np.sqrt(low * high) for low, high in BANDS])
    return float(np.polyfit(middle, octaves(image), 1)[0])


def block_contrast(image: Floats) -> Floats:
    """Standard deviations of (h, w) in blocks of BLOCK x BLOCK, (n,): flat walls have hardly any."""
    h, w = (side // BLOCK * BLOCK for side in image.shape)
    blocks = image[:h, :w].reshape(h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    return blocks.std(axis=(1, 3)).ravel()


def colourfulness(bgr: Image) -> float:
    """Hasler and Suesstrunk, Measuring colourfulness in natural images (2003), equation 6 with their weights."""
    b, g, r = bgr.astype(np.float64).transpose(2, 0, 1)
    rg, yb = r - g, (r + g) / 2 - b
    return float(np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean()))


def saturation(bgr: Image) -> float:
    """Mean of (max - min) / max over the pixels, 0..1."""
    high, low = bgr.max(axis=2).astype(np.float64), bgr.min(axis=2)
    return float(((high - low) / np.maximum(high, 1)).mean())


def measures(bgr: Image) -> dict[tuple[str, str], float | Floats]:
    """Every statistic of one image at WIDTH, by name and group."""
    light = grey(bgr)
    h = len(light)
    out: dict[tuple[str, str], float | Floats] = {
        ("brightness", "all"): float(light.mean()),
        ("contrast", "all"): float(light.std()),
        ("contrast in blocks", "16 x 16 pixels"): block_contrast(light),
        ("dark pixels", f"below {DARK} of 255"): float((light * 255 < DARK).mean()),
        ("bright pixels", f"{BRIGHT} of 255 or more"): float((light * 255 >= BRIGHT).mean()),
        ("slope of the power spectrum", "all"): slope(light),
        ("colourfulness", "all"): colourfulness(bgr),
        ("saturation", "all"): saturation(bgr),
        ("blue over red", "all"): float(np.log((bgr[..., 0].mean() + 1) / (bgr[..., 2].mean() + 1))),
    }
    out |= {
        ("brightness", part): float(light[int(low * h) : int(high * h)].mean()) for part, (low, high) in PARTS.items()
    }
    powers = octaves(light)
    out |= {("power", f"{low} to {high} cycles"): power for (low, high), power in zip(BANDS, powers)}
    return out


UNITS = {
    "power": "log10",
    "slope of the power spectrum": "log10/log10",
    "colourfulness": "8 bit",
    "blue over red": "ln",
}


def summarise(pictures: Iterable[Picture]) -> list[Statistic]:
    """Distributions of `measures` over pictures, which may be of any size from WIDTH on."""
    values: dict[tuple[str, str], list[NDArray]] = {}
    where: list[str] = []
    for picture in pictures:
        where.append(picture.drive)
        for key, value in measures(at_width(picture.bgr)).items():
            values.setdefault(key, []).append(np.atleast_1d(np.asarray(value, dtype=float)))
    return [distribution(name, group, UNITS.get(name, ""), found, where) for (name, group), found in values.items()]
