"""Does it hold? Calibration of probabilities, coverage of intervals, and how sharp both are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bev_perception.evaluation.worth import covered
from bev_perception.spread import SURE, log_odds
from bev_perception.uncertainty import CHANNELS, LEVELS, Estimator, UncertaintyTable
from training.uncertainty.pairs import Pairs


def brier(probability: np.ndarray, right: np.ndarray) -> float:
    """Mean square of what is missing to the truth: low only where probabilities are right and far from even."""
    return float(np.mean((probability - right) ** 2)) if len(right) else float("nan")


def temperature(scores: np.ndarray, right: np.ndarray) -> float:
    """What divides the log odds of scores so that the likelihood of `right` is greatest (Guo et al., ICML 2017)."""
    from scipy.optimize import minimize_scalar

    odds = log_odds(scores)

    def loss(log_temperature: float) -> float:
        z = odds / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0.0, z) - right * z))

    return float(np.exp(minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded").x))


def cooled(scores: np.ndarray, divisor: float) -> np.ndarray:
    """Scores whose log odds are divided."""
    return 1.0 / (1.0 + np.exp(-log_odds(scores) / divisor))


def log_loss(probability: np.ndarray, right: np.ndarray) -> float:
    """Mean negative log likelihood of right and wrong."""
    inside = np.clip(probability, SURE, 1.0 - SURE)
    return float(-np.mean(np.log(np.where(right, inside, 1.0 - inside)))) if len(right) else float("nan")


@dataclass(frozen=True)
class Claim:
    """What is said of N detections: probability (N,); deviations (N, CHANNELS); inside (N, CHANNELS, LEVELS): half the
    width of the interval that is said to hold the error at each of LEVELS."""

    probability: np.ndarray
    deviations: np.ndarray
    inside: np.ndarray


def claim_of(table: UncertaintyTable, pairs: Pairs, classes: Sequence[str]) -> Claim:
    """What a fitted table says of them. Raises ValueError for one of an older version, which knows no sizes."""
    if lacking := [channel for channel in CHANNELS if channel not in table.intervals]:
        raise ValueError(f"the table says nothing of {', '.join(lacking)}: it is of an older version; calibrate again")
    estimator = Estimator(table, tuple(classes))
    found = estimator.deviations(pairs.metres, pairs.scores, pairs.labels, pairs.said)
    deviations = np.stack([found[channel] for channel in CHANNELS], axis=1)
    limits = np.array([table.intervals[channel] for channel in CHANNELS])
    probability = estimator.probabilities(pairs.metres, pairs.scores, pairs.labels, pairs.said)
    return Claim(probability, deviations, deviations[:, :, None] * limits)


def coverage(claim: Claim, pairs: Pairs) -> dict[str, dict[str, float]]:
    """Channel -> for each of LEVELS the share of errors inside the interval that is said to hold it; `deviation`, the
    mean deviation: sharpness; `nll`, the mean negative log likelihood of a normal error of that deviation. Of
    detections that are right; NaN of channels without errors."""
    found = {}
    for i, channel in enumerate(CHANNELS):
        row = covered(pairs.errors[:, i], claim.deviations[:, i], claim.inside[:, i])
        shares = {f"{level:g}": share for level, share in zip(LEVELS, row.shares(), strict=True)}
        known = np.isfinite(pairs.errors[:, i])
        errors, deviations = pairs.errors[known, i], claim.deviations[known, i]
        nll = 0.5 * np.log(2 * np.pi) + np.log(deviations) + 0.5 * (errors / deviations) ** 2
        found[channel] = shares | {"deviation": row.mean_deviation(), "nll": _mean(nll)}
    return found


def worst_gaps(covered: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Level -> the largest distance of a channel's coverage from it."""
    gaps = {f"{level:g}": [abs(row[f"{level:g}"] - level) for row in covered.values()] for level in LEVELS}
    return {level: max(values) for level, values in gaps.items()}


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
