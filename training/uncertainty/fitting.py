"""Tables of probability and deviation from detections beside what was there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

from bev_perception.spread import METRIC_CHANNELS, log_odds, softened
from bev_perception.uncertainty import CHANNELS, LEVELS, LOGIT, ClassTable, Estimator, Rows, UncertaintyTable
from training.uncertainty.pairs import Pairs

RANGES_M = (5.0, 15.0, 25.0, 35.0, 45.0)
SCORES = (0.03, 0.05, 0.07, 0.1, 0.13, 0.17, 0.22, 0.28, 0.35, 0.43, 0.52, 0.62, 0.73, 0.85, 0.95)
# What is known of all classes counts for a class as if it had so many detections more, at each knot: the rare leans on
# the frequent.
PRIOR = 3.0
SCORE_WIDTH = 0.5  # in log odds: how far detections of another score count for a deviation
LEAST = 1e-3  # of a deviation
UNKNOWN = {"yaw": np.pi / np.sqrt(3.0)}  # deviation of a heading of which nothing is known
STANDING = 0.1  # m/s, of what does not move by itself; and of any other channel without errors


@dataclass(frozen=True)
class Use:
    """What a deviation is made of: the network's own to this power, 0 for not at all, times a table by class, distance
    and, unless that is left out, score."""

    power: float = 0.0
    by_score: bool = True


TABLE = Use()


def fit(
    pairs: Pairs, classes: Sequence[str], onnx_sha256: str, frames: int, uses: Mapping[str, Use] | None = None
) -> UncertaintyTable:
    """By class: isotonic regression of right on score, and root mean squares of errors, both weighed by distance.

    A channel that a class has no errors of (the heading of a cone) gets what is known without looking. uses: channel ->
    what else its deviation is made of; of LOGIT: how much scores are softened.
    """
    uses = uses or {}
    near = _nearness(pairs.metres)
    units = _units(pairs, uses)
    pairs = dataclasses.replace(pairs, errors=pairs.errors / units)
    scored = _softened(pairs, uses)
    general = _probability(scored, near, None)
    flat = {c: not uses.get(c, TABLE).by_score for c in CHANNELS}
    errors = {c: _deviation(pairs, near, i, None, flat[c]) for i, c in enumerate(CHANNELS)}
    tables: dict[str, ClassTable] = {}
    for label, name in enumerate(classes):
        own = pairs.labels == label
        part, weights = pairs.select(own), near[own]
        deviations = {}
        for i, channel in enumerate(CHANNELS):
            if len(part.scores) and not np.isfinite(part.errors[:, i]).any() and part.right.any():
                known = UNKNOWN.get(channel, STANDING) / units[own, i].mean()
                deviations[channel] = np.full_like(general, known)
            else:
                deviations[channel] = _deviation(part, weights, i, errors[channel], flat[channel])
        tables[name] = ClassTable(
            _rows(_probability(scored.select(own), weights, general)), {c: _rows(d) for c, d in deviations.items()}
        )
    plain = dict.fromkeys(CHANNELS, (1.0, 1.0, 1.0))
    table = UncertaintyTable(onnx_sha256, RANGES_M, SCORES, tables, plain, frames)
    head = {name: use.power for name, use in uses.items() if use.power}
    return dataclasses.replace(table, intervals=_intervals(table, pairs, classes), head=head)


def _units(pairs: Pairs, uses: Mapping[str, Use]) -> np.ndarray:
    """(N, CHANNELS): the network's deviations to the power that counts."""
    powers = np.array([uses.get(channel, TABLE).power for channel in CHANNELS])
    said = pairs.said[:, [METRIC_CHANNELS.index(channel) for channel in CHANNELS]]
    return np.where(powers > 0, said, 1.0) ** powers


def _softened(pairs: Pairs, uses: Mapping[str, Use]) -> Pairs:
    power = uses.get(LOGIT, TABLE).power
    if not power:
        return pairs
    return dataclasses.replace(
        pairs, scores=softened(pairs.scores, pairs.said[:, METRIC_CHANNELS.index(LOGIT)] ** power)
    )


def _intervals(table: UncertaintyTable, pairs: Pairs, classes: Sequence[str]) -> dict[str, tuple[float, float, float]]:
    """Channel -> quantiles at LEVELS of the errors in units of their deviations."""
    deviations = Estimator(table, tuple(classes)).deviations(pairs.metres, pairs.scores, pairs.labels)
    found = {}
    for i, channel in enumerate(CHANNELS):
        known = np.isfinite(pairs.errors[:, i])
        units = np.abs(pairs.errors[known, i]) / deviations[channel][known]
        quantiles = np.quantile(units, LEVELS) if known.any() else np.array([0.674, 1.645, 1.96])
        found[channel] = (float(quantiles[0]), float(quantiles[1]), float(quantiles[2]))
    return found


def _nearness(metres: np.ndarray) -> np.ndarray:
    """(N, R): how much each detection counts at each of RANGES_M, from 0 to 1; the parts of one add up to 1."""
    knots = np.eye(len(RANGES_M))
    return np.stack([np.interp(metres, RANGES_M, row) for row in knots], axis=1)


def _probability(pairs: Pairs, near: np.ndarray, prior: np.ndarray | None) -> np.ndarray:
    """(R, S), rising with the score. prior: (R, S) of all classes; None: none, this is of all classes."""
    order = np.argsort(pairs.scores, kind="stable")
    rows = []
    for r in range(len(RANGES_M)):
        scores, right, weight = pairs.scores[order], pairs.right[order].astype(float), near[order, r]
        if prior is not None:
            scores, right = np.concatenate([scores, SCORES]), np.concatenate([right, prior[r]])
            weight = np.concatenate([weight, np.full(len(SCORES), PRIOR)])
            again = np.argsort(scores, kind="stable")
            scores, right, weight = scores[again], right[again], weight[again]
        counts = weight > 0
        if not counts.any():
            rows.append(np.array(SCORES))  # nothing is known: as the score says
            continue
        scores, weight = scores[counts], weight[counts]
        fitted = isotonic_regression(right[counts], weights=weight).x
        rows.append(_at_knots(scores, fitted, weight))
    return np.clip(np.array(rows), 0.0, 1.0)


def _at_knots(scores: np.ndarray, fitted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(S,) means of what was fitted around each of SCORES: they rise as it does."""
    near = np.stack([np.interp(scores, SCORES, row) for row in np.eye(len(SCORES))], axis=1) * weight[:, None]
    total = near.sum(axis=0)
    known = total > 0
    means = (near * fitted[:, None]).sum(axis=0)[known] / total[known]
    return np.interp(SCORES, np.array(SCORES)[known], means)


def _deviation(pairs: Pairs, near: np.ndarray, channel: int, prior: np.ndarray | None, flat: bool) -> np.ndarray:
    """(R, S) root mean squares of a channel's errors. prior: (R, S) of all classes; flat: alike for every score."""
    known = np.isfinite(pairs.errors[:, channel])
    squares, near = pairs.errors[known, channel] ** 2, near[known]
    steps = log_odds(pairs.scores[known])[:, None] - log_odds(np.array(SCORES))
    weights = np.exp(-0.5 * (0.0 if flat else steps / SCORE_WIDTH) ** 2) * np.ones_like(steps)  # (K, S)
    total = near.T @ weights
    sums = near.T @ (weights * squares[:, None])
    if prior is not None:
        total, sums = total + PRIOR, sums + PRIOR * prior**2
    mean = float(squares.mean()) if len(squares) else 1.0
    return np.sqrt(np.where(total > 1e-9, sums / np.maximum(total, 1e-9), mean)).clip(LEAST)


def _rows(values: np.ndarray) -> Rows:
    return tuple(tuple(float(f"{value:.5g}") for value in row) for row in values)
