"""From scores and embeddings to an order in which frames are taken: a sampler is a generator, and a row in SAMPLERS.

Each takes scores (n,) >= 0, embeddings (n, D), those of what is taken already (m, D), a generator of random numbers,
and `free` (n,) bool, which its caller changes meanwhile: a row that is not free is not given. It ends when none is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from sklearn.metrics import pairwise_distances_argmin_min

Sampler = Callable[[np.ndarray, np.ndarray, np.ndarray, np.random.Generator, np.ndarray], Iterator[int]]
CHUNK = 2048


def top(
    scores: np.ndarray, embeddings: np.ndarray, taken: np.ndarray, rng: np.random.Generator, free: np.ndarray
) -> Iterator[int]:
    """By falling score."""
    yield from (int(row) for row in np.argsort(-scores, kind="stable") if free[row])


def kmeans_pp(
    scores: np.ndarray, embeddings: np.ndarray, taken: np.ndarray, rng: np.random.Generator, free: np.ndarray
) -> Iterator[int]:
    """Drawn, the next with a probability in proportion to score times squared distance to the nearest that is taken
    (k-means++ weighted by score: Haussmann et al., arXiv 2004.04699)."""
    squares = _nearest(embeddings, taken) ** 2
    while free.any():
        weight = np.where(free, scores * np.where(np.isfinite(squares), squares, 1.0), 0.0)
        if not weight.any():  # all that is left is like what is taken, or scores nothing
            weight = free.astype(np.float64)
        row = int(rng.choice(len(scores), p=weight / weight.sum()))
        yield row
        squares = np.minimum(squares, _to(embeddings, row) ** 2)


def core_set(
    scores: np.ndarray, embeddings: np.ndarray, taken: np.ndarray, rng: np.random.Generator, free: np.ndarray
) -> Iterator[int]:
    """k-center greedy (Sener and Savarese, ICLR 2018), weighted by score as in Haussmann et al.: the next has the
    largest score times distance to the nearest that is taken; the first, where nothing is, the largest score."""
    distances = _nearest(embeddings, taken)
    while free.any():
        worth = scores * np.where(np.isfinite(distances), distances, 1.0)
        row = int(np.where(free, worth, -1.0).argmax())
        yield row
        distances = np.minimum(distances, _to(embeddings, row))


SAMPLERS: dict[str, Sampler] = {"top": top, "kmeans++": kmeans_pp, "core_set": core_set}


def _nearest(embeddings: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """(n,) distance to the nearest that is taken, infinite where nothing is."""
    if not len(taken) or not len(embeddings):
        return np.full(len(embeddings), np.inf)
    parts = [
        pairwise_distances_argmin_min(embeddings[start : start + CHUNK], taken)[1]
        for start in range(0, len(embeddings), CHUNK)
    ]
    return np.concatenate(parts)


def _to(embeddings: np.ndarray, row: int) -> np.ndarray:
    return np.linalg.norm(embeddings - embeddings[row], axis=1)
