"""Noise that textures are made of: the same at the same place of the world, smoothed to what a pixel covers."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats32 = NDArray[np.float32]
F = np.float32
SIDE = 512


@lru_cache(maxsize=2)
def tile(falloff: float, seed: int) -> Floats32:
    """A tileable (512, 512) noise in [-1, 1] whose amplitudes fall as 1 / frequency**falloff."""
    rng = np.random.default_rng(seed)
    fx, fy = np.fft.fftfreq(SIDE)[:, None] * SIDE, np.fft.rfftfreq(SIDE)[None] * SIDE
    spectrum = np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) / np.maximum(np.hypot(fx, fy), 2.0) ** falloff
    image = np.fft.irfft2(spectrum)
    return np.clip(image / (2.5 * image.std()), -1, 1).astype(F)


def fractal(u: Floats32, v: Floats32, per_m: float) -> Floats32:
    """Fractal noise in [-1, 1] at places (N,), `per_m` texels a metre: it repeats after 512 texels."""
    # The mask takes negative whole numbers round as well.
    return tile(1.1, 7)[(v * F(per_m)).astype(np.int32) & (SIDE - 1), (u * F(per_m)).astype(np.int32) & (SIDE - 1)]


def grain(u: Floats32, v: Floats32, per_m: float, footprint: Floats32) -> Floats32:
    """Fine noise of texels of 1 / `per_m` m; it fades out as the `footprint` (m) of a pixel grows past a few texels."""
    texel = tile(0.35, 11)[(v * F(per_m)).astype(np.int32) & (SIDE - 1), (u * F(per_m)).astype(np.int32) & (SIDE - 1)]
    # The mean over n texels of nearly white noise falls as 1 / n.
    return texel / np.maximum(footprint * F(per_m), F(1))


def draws(*keys: NDArray[np.generic] | int) -> Floats32:
    """Even draws in [0, 1), one for each place of the whole numbers `keys` (broadcast); equal keys draw equally."""
    mixed: NDArray[np.uint32] = np.array([0x9E3779B9], np.uint32)
    with np.errstate(over="ignore"):
        for key in keys:
            mixed = (mixed ^ np.asarray(key).astype(np.int64).astype(np.uint32)) * np.uint32(0x85EBCA6B)
            mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0xC2B2AE35)
            mixed = mixed ^ (mixed >> np.uint32(13))
    return (mixed >> np.uint32(8)).astype(F) * F(2.0**-24)


def covered(distance: Floats32, half_width: float, footprint: Floats32) -> Floats32:
    """How much of a pixel, 0..1, a line of that half width covers whose middle is `distance` away, all in metres."""
    reach = footprint * F(0.5)
    low, high = np.maximum(distance - reach, F(-half_width)), np.minimum(distance + reach, F(half_width))
    return np.clip((high - low) / np.maximum(footprint, F(1e-4)), 0, 1)
