"""Does a 0.7 mean that seven of ten are right? What was said against the share that is true (the reliability diagram of
DeGroot and Fienberg, The Statistician 32, 1983)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bev_perception.evaluation.matching import TRUE_AT, Matched, join

BINS = 20


@dataclass(frozen=True)
class Reliability:
    """Sums over bins of equal width from 0 to 1, so that those of several drives add up. count: detections in each;
    said: the sum of their scores or probabilities; right: how many are true at 2 m."""

    count: tuple[int, ...]
    said: tuple[float, ...]
    right: tuple[int, ...]

    def points(self) -> list[tuple[float, float, int]]:
        """(mean of what was said, share that is right, count) of each bin that has detections."""
        return [(s / n, r / n, n) for n, s, r in zip(self.count, self.said, self.right) if n]

    def error(self) -> float:
        """Expected calibration error (Naeini et al., AAAI 2015; of detections D-ECE, Kueppers et al., CVPR workshops
        2020, by confidence alone): mean distance of the two, weighed by count; NaN without detections."""
        total = sum(self.count)
        return sum(abs(s - r) for s, r in zip(self.said, self.right)) / total if total else math.nan


def reliability(said: np.ndarray, right: np.ndarray, bins: int = BINS) -> Reliability:
    """said (N,): scores or probabilities; right (N,) bool: whether an object within 2 m is the detection's own."""
    place = np.clip((said * bins).astype(int), 0, bins - 1)
    count, hits = np.bincount(place, minlength=bins), np.bincount(place[right], minlength=bins)
    sums = np.bincount(place, said.astype(np.float64), bins)
    return Reliability(tuple(count.tolist()), tuple(sums.tolist()), tuple(hits.tolist()))


def score_reliability(parts: Sequence[Matched]) -> Reliability:
    """Of the scores of all detections of all classes together."""
    matched = join(parts)
    return reliability(matched.scores, matched.true[:, TRUE_AT])


def add_reliabilities(parts: Sequence[Reliability]) -> Reliability:
    """Of several drives, all with as many bins; at least one."""
    counts, sums, hits = (tuple(map(sum, zip(*rows))) for rows in zip(*((p.count, p.said, p.right) for p in parts)))
    return Reliability(counts, sums, hits)
