"""Random numbers that belong to a place or a part of an object: the same in every scan, whoever asks, in any order."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

_STEP = np.uint64(0x9E3779B97F4A7C15)


def uniforms(*keys: ArrayLike) -> Floats:
    """Integers that broadcast together -> one number in (0, 1) for each combination of them.

    The keys are mixed one after the other by the finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable
    pseudorandom number generators, OOPSLA 2014).
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            state = _mixed(np.asarray(state + np.asarray(key).astype(np.int64).view(np.uint64) + _STEP))
    return np.asarray(((state >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53)


def normals(*keys: ArrayLike) -> Floats:
    """As `uniforms`, from the normal distribution with mean 0 and deviation 1 (Box and Muller, 1958)."""
    u, v = uniforms(*keys, 0), uniforms(*keys, 1)
    return np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
