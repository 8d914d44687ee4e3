"""Does a score of 0.7 mean that seven of ten are right? Scores against the share that is true (the reliability diagram
of DeGroot and Fienberg, The Statistician 32, 1983; expected calibration error: Naeini et al., AAAI 2015)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bev_perception.evaluation.matching import TRUE_AT, Matched, join

BINS = 10


@dataclass(frozen=True)
class Reliability:
    """Of B bins of equal width from 0 to 1: mean score, share that is true at 2 m (NaN for an empty bin), count."""

    score: tuple[float, ...]
    right: tuple[float, ...]
    count: tuple[int, ...]

    def error(self) -> float:
        """Expected calibration error: mean distance of the two, weighed by count; NaN without detections."""
        total = sum(self.count)
        gaps = (abs(s - r) * n for s, r, n in zip(self.score, self.right, self.count) if n)
        return sum(gaps) / total if total else math.nan


def reliability(parts: Sequence[Matched], bins: int = BINS) -> Reliability:
    """Of all detections of all classes together."""
    matched = join(parts)
    place = np.clip((matched.scores * bins).astype(int), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        score = np.bincount(place, matched.scores, bins) / count
        right = np.bincount(place, matched.true[:, TRUE_AT].astype(float), bins) / count
    return Reliability(tuple(score.tolist()), tuple(right.tolist()), tuple(count.tolist()))
