"""From measured scores to how many samples a target needs, with how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.data_need.curves import FAMILIES, Curve, fit_curve

DRAWS = 40  # of each family


@dataclass(frozen=True)
class Need:
    """Samples that a target needs. naive: by the power law alone. low, high: 5 % and 95 % of the draws; infinite where
    no amount may do. draws, weights (D,): what the distribution is made of, weights adding up to one."""

    target: float
    middle: float
    low: float
    high: float
    naive: float
    draws: np.ndarray
    weights: np.ndarray

    def likely(self, samples: float) -> float:
        """The probability that so many are enough."""
        return float(self.weights[self.draws <= samples].sum())


def estimate(samples: Sequence[float], scores: Sequence[float], target: float, seed: int = 0) -> Need:
    """samples (N,): sizes that were trained on, with repeats; scores (N,): what each training reached.

    Curves of every family are fitted to draws of the measurements: each score with an error as large as repeats scatter
    (where there are none, as the best fit leaves over). A family counts by how well its curve, fitted to all but the
    largest size, says the score there. The scatter of families is most of what is not known.
    Raises ValueError for fewer than four sizes.
    """
    n, v = np.asarray(samples, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    sizes = np.unique(n)
    if len(sizes) < 4:
        raise ValueError(f"four sizes are wanted, three for a curve and one to judge it by; found {sizes.tolist()}")
    curves = {family: fit_curve(family, n, v) for family in FAMILIES}
    left_over = min(curve.error for curve in curves.values()) * np.sqrt(len(v) / max(len(v) - 3, 1))
    noise = max(_scatter(n, v), left_over, 1e-4)
    trust, free = _trust(n, v, noise), max(len(v) - 3, 1)
    rng = np.random.default_rng(seed)
    needs, weights = [], []
    for family, part in trust.items():
        if part < 0.005:
            continue
        for _ in range(DRAWS):
            # The noise is known from few measurements itself: draws follow Student's distribution.
            wide = noise * np.sqrt(free / rng.chisquare(free))
            curve = fit_curve(family, n, v + rng.normal(0.0, wide, len(v)), start=curves[family])
            needs.append(curve.need(target))
            weights.append(part / DRAWS)
    draws, parts = np.array(needs), np.array(weights) / sum(weights)
    low, middle, high = (quantile(draws, parts, level) for level in (0.05, 0.5, 0.95))
    return Need(target, middle, low, high, curves["power"].need(target), draws, parts)


def quantile(values: np.ndarray, weights: np.ndarray, level: float) -> float:
    """The least value at which the weights, which add up to one, reach `level`."""
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][min(int(np.searchsorted(reached, level - 1e-12)), len(values) - 1)])


def like_classes(curves: Mapping[str, Curve]) -> Curve:
    """What to expect of a class that nobody has labelled yet: the median curve of classes that are like it, as a power
    law of their unit. Raises ValueError where there is none, or their units differ."""
    units = {curve.unit for curve in curves.values()}
    if len(units) != 1:
        raise ValueError(f"curves of one unit are wanted, found {sorted(units)}")
    (unit,) = units
    sizes = np.geomspace(0.02, 20.0, 30) * unit
    middle = np.median([curve(sizes) for curve in curves.values()], axis=0)
    return fit_curve("power", sizes, middle)


def _scatter(n: np.ndarray, v: np.ndarray) -> float:
    """Standard deviation of repeats about their mean, over all sizes that have some."""
    groups = [v[n == size] for size in np.unique(n)]
    free = sum(len(group) - 1 for group in groups)
    return float(np.sqrt(sum(((group - group.mean()) ** 2).sum() for group in groups) / free)) if free else 0.0


def _trust(n: np.ndarray, v: np.ndarray, noise: float) -> dict[str, float]:
    """Family -> its part, by the likelihood of the scores at the largest size under the curve of the others."""
    largest = n == n.max()
    truth = float(v[largest].mean())
    parts = {}
    for family in FAMILIES:
        known = ~largest
        if len(np.unique(n[known])) < 3:
            return dict.fromkeys(FAMILIES, 1.0 / len(FAMILIES))
        miss = float(fit_curve(family, n[known], v[known])(float(n.max()))) - truth
        parts[family] = float(np.exp(-0.5 * (miss / (3.0 * noise)) ** 2)) + 1e-9
    total = sum(parts.values())
    return {family: part / total for family, part in parts.items()}
