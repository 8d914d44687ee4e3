"""What the network makes of it all: how much it finds, how sure it is, and whether radars agree with what it finds."""

from __future__ import annotations

import numpy as np

from bev_perception.usual.returns import Returns

STRONGEST = 30  # candidates
NEAR_M = 2.5
FARTHEST_M = 40.0
SCENE_STATISTICS = (
    "number of detections", "mean score of the strongest", "doubt of the strongest", "moving returns with a detection",
)  # fmt: skip


def scene_statistics(scores: np.ndarray, boxes: np.ndarray, returns: Returns) -> np.ndarray:
    """scores: of the network's candidates, falling; boxes (M, 7): detections -> (1, 4) float64 of SCENE_STATISTICS.

    Doubt is the mean entropy of a score, in bits. Agreement is the share of the moving returns within FARTHEST_M that
    have one of the STRONGEST detections within NEAR_M; NaN where nothing moves.
    """
    top = np.clip(scores[:STRONGEST].astype(np.float64), 1e-4, 1 - 1e-4)
    doubt = -(top * np.log2(top) + (1 - top) * np.log2(1 - top))
    moving = returns.moving_place
    moving = moving[(np.abs(moving) < FARTHEST_M).all(axis=1)]
    agreement = _accompanied(moving, boxes[:STRONGEST, :2].astype(np.float64))
    return np.array([[np.log1p(len(boxes)), top.mean(), doubt.mean(), agreement]])


def _accompanied(ones: np.ndarray, others: np.ndarray) -> float:
    """Share of `ones` (A, 2) that have one of `others` (B, 2) within NEAR_M."""
    if not len(ones):
        return np.nan
    if not len(others):
        return 0.0
    x, y = ones[:, :1] - others[:, 0], ones[:, 1:] - others[:, 1]
    return float(((x * x + y * y).min(axis=1) < NEAR_M**2).mean())
