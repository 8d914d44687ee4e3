"""Slow, obvious ways that several tests compare the product with."""

from __future__ import annotations

import operator

import numpy as np


def yaw_of(rotation: np.ndarray) -> float:
    """(3, 3) -> yaw (rad) of the rotated x axis, ignoring roll and pitch."""
    return float(np.arctan2(rotation[1, 0], rotation[0, 0]))


def candidates_by_loops(heatmap: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(classes, X, Y) scores -> scores, labels, flat cells (k,) of the highest, by falling score."""
    rows = sorted(((-score, index) for index, score in enumerate(heatmap.ravel().tolist())), key=lambda row: row[0])
    area = heatmap[0].size
    scores = np.array([-score for score, _ in rows[:k]], dtype=heatmap.dtype)
    labels, cells = (np.array([f(index, area) for _, index in rows[:k]]) for f in (operator.floordiv, operator.mod))
    return scores, labels, cells
