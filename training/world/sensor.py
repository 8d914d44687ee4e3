"""Lens and sensor: light that strays, blur, exposure, noise, a curve and JPEG between radiance and pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]
F = np.float32


@dataclass(frozen=True)
class Sensor:
    """A camera of one drive. Lengths in pixels are of the image of 1600x900 and shrink with it."""

    gain: float  # of the exposure it aims at
    balance: Floats32  # (3,) of white
    sharpness_px: float  # sigma of the point spread
    veil: float  # share of all light that strays over the whole image
    noise: float  # 1: that of a day at full size
    quality: int  # of JPEG
    exposure_s: float
    rolling_s: float = 0.0  # from the first to the last row; 0: a global shutter


def draw_sensor(rng: np.random.Generator, time_of_day: str, rolling_s: float = 0.0) -> Sensor:
    """The camera of a drive: no two are alike."""
    return Sensor(
        gain=float(np.exp(rng.normal(0, 0.15))),
        balance=np.exp(rng.normal(0, 0.04, 3)).astype(F),
        sharpness_px=float(rng.uniform(0.7, 1.3)),
        veil=float(rng.uniform(0.01, 0.05)),
        noise={"day": 1.0, "dusk": 2.2, "night": 4.5}[time_of_day] * float(rng.uniform(0.8, 1.3)),
        quality=int(rng.integers(70, 96)),
        exposure_s={"day": 0.002, "dusk": 0.010, "night": 0.025}[time_of_day],
        rolling_s=rolling_s,
    )


def stray(image: Floats32, veil: float) -> None:
    """Adds, in place, the glow around what is far brighter than the picture, and a veil over all of it."""
    h, w = image.shape[:2]
    white = F(4) * image.mean()
    bright = np.maximum(image - white, 0)
    # Wide glows are smooth: an eighth of the pixels is enough for them.
    small = cv2.resize(bright, (max(1, w // 8), max(1, h // 8)), interpolation=cv2.INTER_AREA)
    wide = cv2.GaussianBlur(small, (0, 0), max(0.5, w / 8 * 0.05)) * F(0.12)
    wide += cv2.GaussianBlur(small, (0, 0), max(0.5, w / 8 * 0.012)) * F(0.25)
    image += cv2.resize(wide, (w, h), interpolation=cv2.INTER_LINEAR)
    image += image.mean(axis=(0, 1)) * F(veil)


@dataclass(frozen=True)
class Sun:
    """The sun that shines into the lens: column and row in the picture's plane, pixels, and its light, (3,) RGB."""

    place: tuple[float, float]
    colour: Floats32


def flare(image: Floats32, sun: Sun) -> None:
    """Adds, in place, the ghosts that the lens makes of a sun within or just outside the picture."""
    h, w = image.shape[:2]
    middle = np.array([w / 2, h / 2])
    to = np.array(sun.place) - middle
    if np.abs(to[0]) > w or np.abs(to[1]) > 1.5 * h:
        return
    for place, radius, part in ((-0.35, 0.05, 0.020), (-0.8, 0.09, 0.012), (0.45, 0.03, 0.025), (-1.3, 0.15, 0.008)):
        x, y = middle + to * place
        layer = np.zeros((h, w), F)
        cv2.circle(layer, (round(x * 16), round(y * 16)), round(radius * w * 16), (1.0,), -1, cv2.LINE_AA, 4)
        image += cv2.GaussianBlur(layer, (0, 0), max(0.5, w * 0.006))[..., None] * (sun.colour * F(part))


def smear(image: Floats32, shift_px: float) -> Floats32:
    """The picture that moved by `shift_px` columns while the shutter was open."""
    length = abs(shift_px)
    if length < 0.3:
        return image
    taps = 2 * int(np.ceil(length / 2)) + 1
    at = np.arange(taps) - taps // 2
    kernel = np.clip(length / 2 + 0.5 - np.abs(at), 0, 1)
    weights = (kernel / kernel.sum()).astype(F)[None]
    return np.asarray(cv2.filter2D(image, -1, weights, borderType=cv2.BORDER_REPLICATE), F)


def expose(image: Floats32, gain: float) -> Floats32:
    """Scaled as automatic exposure does it, by the geometric mean of the picture without its upper quarter.

    Not wholly: what is a hundred times darker than a street by day ends up a third as bright.
    """
    grey = image @ LUMINANCE
    key = float(np.exp(np.log(np.maximum(grey[len(grey) // 4 :], F(1e-4))).mean()))
    return image * F(gain * KEY / key * (key / BY_DAY) ** 0.25)


LUMINANCE = np.array([0.2126, 0.7152, 0.0722], F)
KEY = 0.12  # the level that exposure aims at
BY_DAY = 0.3  # about what a street by day has as its geometric mean, in the units of `shading`
PALE = 0.6  # colours of a sensor before they are made vivid for the eye
# A toe, a straight part and a shoulder that ends at twice what is white, then the display's gamma.
_LEVELS = np.arange(4096) / 4095.0 * 2.5


def _filmic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x * (1.9 * x + 0.02)) / (x * (1.9 * x + 0.75) + 0.10)


CURVE = (255 * (_filmic(_LEVELS) / _filmic(np.array(2.0))).clip(0, 1) ** 0.5 + 0.5).astype(np.uint8)


def develop(
    radiance: Floats32,
    sensor: Sensor,
    scale: float,
    shift_px: float,
    sun: Sun | None,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Linear RGB (h, w, 3) to BGR uint8, at `scale` of 1600x900; the picture moves by `shift_px` columns meanwhile."""
    h, w = radiance.shape[:2]
    image = radiance.copy()
    stray(image, sensor.veil)
    if sun:
        flare(image, sun)
    image = smear(image, shift_px)
    sigma = sensor.sharpness_px * scale
    if sigma > 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), F)
    image = (image - (grey := image @ LUMINANCE)[..., None]) * F(PALE) + grey[..., None]
    image = expose(image, sensor.gain * float(np.exp(rng.normal(0, 0.05))))
    y, x = np.ogrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j]
    image *= (1 - 0.2 * (x**2 + 0.32 * y**2)).astype(F)[..., None] * sensor.balance
    # Pixels of a smaller image are means of those of the sensor, and of their noise.
    noise = rng.standard_normal((h, w, 3), dtype=F) * F(sensor.noise * max(scale, 0.2))
    image += noise * np.sqrt(F(0.0004) * np.maximum(image, 0) + F(1.6e-5))
    np.maximum(image, 0, out=image)
    index = np.minimum(image * F(4095 / 2.5), 4095).astype(np.int16)
    bgr = np.ascontiguousarray(CURVE[index][..., ::-1])
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, sensor.quality])
    assert done
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
