"""Slow, obvious ways that several tests compare the product with."""

from __future__ import annotations

import numpy as np


def yaw_of(rotation: np.ndarray) -> float:
    """(3, 3) -> yaw (rad) of the rotated x axis, ignoring roll and pitch."""
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def peaks_by_loops(heatmap: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(classes, X, Y) scores -> scores, labels, flat cells (k,) of the highest 3x3 local maxima, by falling score.

    What is no peak counts as score 0.
    """
    classes, x, y = heatmap.shape
    peaks = np.zeros_like(heatmap)
    for c in range(classes):
        for i in range(x):
            for j in range(y):
                around = heatmap[c, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                if heatmap[c, i, j] == around.max():
                    peaks[c, i, j] = heatmap[c, i, j]
    flat = peaks.ravel()
    order = np.argsort(-flat, kind="stable")[:k]
    return flat[order], order // (x * y), order % (x * y)
