"""What is on a lens, or shines into it. Functions as those of image_corruptions; `level` is 1 to 3, and the same
generator draws the same blotches: dirt stays where it is."""

from __future__ import annotations

import cv2
import numpy as np

from training.robustness.image_corruptions import plasma

DIRT = (0.15, 0.35, 0.6)  # share of the image that is covered
DROPS = (0.08, 0.2, 0.4)
DROP_RADIUS = (0.02, 0.07)  # of the image's width
SUN = (0.6, 1.0, 1.8)  # brightness of the veil at the sun, 1: white


def lens_dirt(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Dried mud in blotches, out of focus, through which a little light comes."""
    height, width = image.shape[:2]
    size = 1 << int(max(height, width) - 1).bit_length()
    clouds = plasma(size, 1.8, rng)[:height, :width]
    edge = np.quantile(clouds, 1.0 - DIRT[level - 1])
    cover = np.clip((clouds - edge) / 0.06 + 0.5, 0.0, 1.0)[..., None] * 0.92
    color = np.array([38.0, 52.0, 62.0]) * rng.uniform(0.7, 1.3)
    return _eight_bits((1.0 - cover) * image + cover * color)


def water_drops(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """Drops, each a small lens that is out of focus: what is behind is smeared, its lower edge bright."""
    height, width = image.shape[:2]
    cover = np.zeros((height, width), dtype=np.float32)
    while cover.mean() < DROPS[level - 1]:
        radius = rng.uniform(*DROP_RADIUS) * width
        center = int(rng.uniform(0, width)), int(rng.uniform(0, height))
        axes = int(radius), int(radius * rng.uniform(0.9, 1.4))
        cv2.ellipse(cover, center, axes, 0.0, 0.0, 360.0, (1.0,), cv2.FILLED)
    soft = cv2.GaussianBlur(cover, (0, 0), max(0.004 * width, 0.5))
    smeared = cv2.GaussianBlur(image, (0, 0), 0.03 * width).astype(np.float32)
    rim = np.clip(cv2.Sobel(soft, cv2.CV_32F, 0, 1, ksize=3) * -0.25, 0.0, 1.0)[..., None]
    return _eight_bits((1.0 - soft[..., None]) * image + soft[..., None] * smeared + 80.0 * rim)


def low_sun(image: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    """The sun stands in the upper part of the image: a white disc, a glare around it and a veil over all."""
    height, width = image.shape[:2]
    x, y = rng.uniform(0.2, 0.8) * width, rng.uniform(0.05, 0.35) * height
    rows, columns = np.mgrid[:height, :width]
    away = np.hypot(rows - y, columns - x) / width
    strength = SUN[level - 1]
    veil = strength * (0.35 * np.exp(-away / 0.35) + 1.5 * np.exp(-((away / 0.06) ** 2)))
    tint = np.array([0.85, 0.95, 1.0])
    return _eight_bits((1.0 - 0.25 * min(strength, 1.0)) * image + 255.0 * veil[..., None] * tint)


def _eight_bits(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0.0, 255.0)).astype(np.uint8)
