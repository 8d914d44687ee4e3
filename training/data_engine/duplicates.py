"""Frames that show what another frame shows, as of a car that waits at a light: one of them is enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Likeness:
    """Two frames of a drive are near duplicates where all three hold: the vehicle is within metres and radians of where
    it was, and their embeddings, in units of the pool's deviations, are within `distance` (root mean square over the
    dimensions; two frames of a pool that have nothing to do with each other are 1.4 apart)."""

    metres: float = 1.0
    radians: float = 0.09
    distance: float = 0.5


def distinct(
    places: np.ndarray, embeddings: np.ndarray, scores: np.ndarray, like: Likeness, kept: np.ndarray
) -> np.ndarray:
    """(n,) bool: which frames of a drive stay. From the highest score down, a frame goes where it is a near duplicate
    of one that stays.

    places (n, 3): x, y (m), yaw (rad); embeddings (n, D) in units of the pool's deviations; scores (n,). kept (n,)
    bool: frames that stay whatever they are like, and that others may be near duplicates of (labelled already).
    """
    stays = kept.copy()
    for row in np.argsort(-scores, kind="stable"):
        if stays[row]:
            continue
        others = np.flatnonzero(stays)
        step = places[others] - places[row]
        turn = np.abs((step[:, 2] + np.pi) % (2 * np.pi) - np.pi)
        near = others[(np.hypot(step[:, 0], step[:, 1]) <= like.metres) & (turn <= like.radians)]
        apart = np.sqrt(np.mean((embeddings[near] - embeddings[row]) ** 2, axis=1))
        stays[row] = not (apart <= like.distance).any()
    return stays
