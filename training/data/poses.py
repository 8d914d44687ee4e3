"""Poses as tables and index have them: x y z and a quaternion w x y z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np


def poses_from_rows(rows: np.ndarray) -> np.ndarray:
    """(n, 7) x y z and quaternion w x y z -> (n, 4, 4)."""
    q = rows[:, 3:] / np.linalg.norm(rows[:, 3:], axis=1, keepdims=True)
    w, x, y, z = q.T
    poses = np.zeros((len(rows), 4, 4))
    poses[:, 0, :3] = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], axis=1)
    poses[:, 1, :3] = np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], axis=1)
    poses[:, 2, :3] = np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], axis=1)
    poses[:, :3, 3] = rows[:, :3]
    poses[:, 3, 3] = 1
    return poses


def pose_rows(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(n, 7) of rows with translation and rotation. Raises ValueError where these are not 3 and 4 numbers."""
    parts = (numbers([row["translation"] for row in rows], 3), numbers([row["rotation"] for row in rows], 4))
    return np.concatenate(parts, axis=1)


def numbers(vectors: Sequence[Sequence[float]], length: int) -> np.ndarray:
    """n lists -> (n, length) float64; np.array takes four times as long for millions of them."""
    if set(map(len, vectors)) - {length}:
        wrong = next(vector for vector in vectors if len(vector) != length)
        raise ValueError(f"expected {length} numbers, found {wrong!r}; unpack the metadata again")
    return np.fromiter(chain.from_iterable(vectors), np.float64, length * len(vectors)).reshape(-1, length)
