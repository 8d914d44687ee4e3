"""Class-balanced grouping and sampling (Zhu et al., 2019, arXiv 1908.09492) over keyframes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def balanced_items(labels: Sequence[np.ndarray], classes: int, seed: int = 0) -> np.ndarray:
    """For each keyframe its labels -> indices of keyframes, many of them several times, (L,) int64.

    Every class gives equally many: of the keyframes that show it, each as often as the mean class is frequent to how
    frequent it is (mmdetection3d, CBGSDataset). Classes that never occur give none; without any object, every keyframe
    once.
    """
    shown = np.zeros((len(labels), classes), dtype=bool)
    for i, of_frame in enumerate(labels):
        shown[i, of_frame] = True
    counts = shown.sum(axis=0)
    if not counts.any():
        return np.arange(len(labels))
    rng = np.random.default_rng(seed)
    share = counts / counts.sum()
    picked = [
        rng.choice(np.flatnonzero(shown[:, k]), int(counts[k] / (classes * share[k]))) for k in np.flatnonzero(counts)
    ]
    return np.concatenate(picked).astype(np.int64)
