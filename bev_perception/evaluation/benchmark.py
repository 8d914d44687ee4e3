"""Average precision, errors and NDS of matched detections, as the nuScenes detection benchmark computes them (Caesar et
al., CVPR 2020, section 3.1; configuration detection_cvpr_2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bev_perception.evaluation.matching import DISTANCES, ERRORS, TRUE_AT, Matched, descending

RECALLS = np.linspace(0.0, 1.0, 101)
FIRST = 11  # of RECALLS that counts: what lies at a recall up to 0.1 is left out
MIN_PRECISION = 0.1
MAP_WEIGHT = 5  # of mAP in the NDS, where each error has 1
# Errors that a class does not have.
UNDEFINED = {"traffic_cone": ("aoe", "ave", "aae"), "barrier": ("ave", "aae")}


@dataclass(frozen=True)
class Curve:
    """Of one class, at RECALLS. precision (101, 4), at each of DISTANCES; confidence (101,) and errors (101, 5) at 2 m:
    the score at which that recall is reached, 0 beyond the largest, and the mean error of all that is true down to it.
    """

    precision: np.ndarray
    confidence: np.ndarray
    errors: np.ndarray

    def ap(self) -> tuple[float, ...]:
        """Average precision at each of DISTANCES."""
        above = np.maximum(self.precision[FIRST:] - MIN_PRECISION, 0.0)
        return tuple((above.mean(axis=0) / (1 - MIN_PRECISION)).tolist())

    def true_positive_errors(self) -> np.ndarray:
        """(5,) means over the recalls that are reached; 1 where fewer than a tenth of the objects are found."""
        reached = np.flatnonzero(self.confidence)
        last = reached[-1] if len(reached) else 0
        if last < FIRST:
            return np.ones(len(ERRORS))
        return np.asarray(self.errors[FIRST : last + 1].mean(axis=0))

    def best_score(self) -> float:
        """The score with the highest F1 at 2 m, NaN where nothing is found."""
        precision = self.precision[:, TRUE_AT]
        f1 = 2 * precision * RECALLS / np.maximum(precision + RECALLS, 1e-9)
        return float(self.confidence[np.argmax(f1)]) if f1.max() > 0 else math.nan


def curve(matched: Matched, weights: np.ndarray | None = None, wanted: float | None = None) -> Curve:
    """weights (N,): how often each detection counts, and wanted: how many objects there are then; None: once, and those
    that there were. With whole numbers it is as if frames were there so often, but for steps between equal rows.
    """
    order = descending(matched.scores)
    if weights is not None:
        order = order[weights[order] > 0]
    count = np.ones(len(order)) if weights is None else weights[order].astype(np.float64)
    objects = matched.wanted if wanted is None else wanted
    scores, true = matched.scores[order], matched.true[order]
    precision = np.zeros((len(RECALLS), len(DISTANCES)))
    confidence = np.zeros(len(RECALLS))
    errors = np.ones((len(RECALLS), len(ERRORS)))
    if not objects:
        return Curve(precision, confidence, errors)
    seen = np.cumsum(count)
    for column in range(len(DISTANCES)):
        hits = np.cumsum(np.where(true[:, column], count, 0.0))
        if len(hits) and hits[-1]:
            recall = hits / objects
            precision[:, column] = np.interp(RECALLS, recall, hits / seen, right=0)
            if column == TRUE_AT:
                confidence = np.interp(RECALLS, recall, scores, right=0)
    hit = true[:, TRUE_AT]
    if hit.any():
        for column in range(len(ERRORS)):
            means = _running_mean(matched.errors[order[hit], column], count[hit])
            errors[:, column] = np.interp(confidence[::-1], scores[hit][::-1], means[::-1])[::-1]
    return Curve(precision, confidence, errors)


def class_errors(name: str, curve: Curve) -> np.ndarray:
    """(5,) as ERRORS, NaN where the class does not have it."""
    found = curve.true_positive_errors()
    return np.array([math.nan if e in UNDEFINED.get(name, ()) else value for e, value in zip(ERRORS, found)])


def nds(mean_ap: float, errors: Sequence[float]) -> float:
    """nuScenes detection score of the mean AP and the five mean errors."""
    return (MAP_WEIGHT * mean_ap + sum(max(0.0, 1.0 - e) for e in errors)) / (MAP_WEIGHT + len(ERRORS))


def means(curves: Mapping[str, Curve]) -> tuple[float, np.ndarray]:
    """Over all classes -> (mAP, (5,) errors): what the benchmark calls by these names."""
    mean_ap = float(np.mean([np.mean(c.ap()) for c in curves.values()]))
    return mean_ap, np.nanmean([class_errors(name, c) for name, c in curves.items()], axis=0)


def _running_mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) -> mean of the values up to each place, without those that are NaN; 1 where all are, 0 before the first."""
    defined = ~np.isnan(values)
    if not defined.any():
        return np.ones(len(values))
    counts = np.cumsum(np.where(defined, weights, 0.0))
    return np.cumsum(np.where(defined, values * weights, 0.0)) / np.where(counts > 0, counts, 1.0)
