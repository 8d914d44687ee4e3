"""Does it hold? Calibration of probabilities, coverage of intervals, and how sharp both are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bev_perception.uncertainty import CHANNELS, LEVELS, Estimator, UncertaintyTable
from training.uncertainty.pairs import Pairs

BINS = 20


def calibration_error(probability: np.ndarray, right: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error of detections (D-ECE of Kueppers et al., CVPR workshops 2020, by confidence alone):
    distance of mean confidence and precision in bins of equal width, weighed by count. NaN without detections."""
    if not len(probability):
        return float("nan")
    place = np.clip((probability * bins).astype(int), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    gap = np.abs(np.bincount(place, probability, bins) - np.bincount(place, right.astype(float), bins))
    return float(gap.sum() / count.sum())


def brier(probability: np.ndarray, right: np.ndarray) -> float:
    """Mean square of what is missing to the truth: low only where probabilities are right and far from even."""
    return float(np.mean((probability - right) ** 2)) if len(right) else float("nan")


def temperature(scores: np.ndarray, right: np.ndarray) -> float:
    """What divides the log odds of scores so that the likelihood of `right` is greatest (Guo et al., ICML 2017)."""
    from scipy.optimize import minimize_scalar

    odds = _log_odds(scores)

    def loss(log_temperature: float) -> float:
        z = odds / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0.0, z) - right * z))

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def cooled(scores: np.ndarray, divisor: float) -> np.ndarray:
    """Scores whose log odds are divided."""
    return 1.0 / (1.0 + np.exp(-_log_odds(scores) / divisor))


def coverage(table: UncertaintyTable, pairs: Pairs, classes: Sequence[str]) -> dict[str, dict[str, float]]:
    """Channel -> for each of LEVELS the share of errors inside the interval that is said to hold it, and `deviation`,
    the mean deviation; of detections that are right."""
    deviations = Estimator(table, tuple(classes)).deviations(pairs.metres, pairs.scores, pairs.labels)
    found = {}
    for i, channel in enumerate(CHANNELS):
        known = np.isfinite(pairs.errors[:, i])
        units = np.abs(pairs.errors[known, i]) / deviations[channel][known]
        row = {
            f"{level:g}": _share(units, limit) for level, limit in zip(LEVELS, table.intervals[channel], strict=True)
        }
        found[channel] = row | {"deviation": float(deviations[channel][known].mean()) if known.any() else float("nan")}
    return found


def worst_gaps(covered: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Level -> the largest distance of a channel's coverage from it."""
    gaps = {f"{level:g}": [abs(row[f"{level:g}"] - level) for row in covered.values()] for level in LEVELS}
    return {level: max(values) for level, values in gaps.items()}


def _share(units: np.ndarray, limit: float) -> float:
    return float(np.mean(units <= limit)) if len(units) else float("nan")


def _log_odds(scores: np.ndarray) -> np.ndarray:
    inside = np.clip(scores, 1e-6, 1.0 - 1e-6)
    return np.log(inside) - np.log1p(-inside)
