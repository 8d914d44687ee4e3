"""Learning curves: four families that rise with the number of samples, fitted by weighted least squares.

Mahmood et al., "How Much More Data Do I Need?" (CVPR 2022), Table 1. Sizes are in units of the largest that was
measured and scores within [0, 1], so that all parameters are of the size of one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]
MOST = 1e4  # times the largest size that was measured: what needs more is no number


@dataclass(frozen=True)
class Family:
    """shape: of parameters and sizes (N,) > 0 -> scores (N,), never falling. low, high: bounds of the parameters, in
    fits and in bootstrap draws alike. starts: where fits begin."""

    shape: Shape
    low: tuple[float, ...]
    high: tuple[float, ...]
    starts: tuple[tuple[float, ...], ...]


def _power(theta: np.ndarray, n: np.ndarray) -> np.ndarray:
    amount, exponent, end = theta
    return end - amount * n**-exponent


def _logarithmic(theta: np.ndarray, n: np.ndarray) -> np.ndarray:
    slope, shift, level = theta
    return slope * np.log(n + shift) + level


def _arctan(theta: np.ndarray, n: np.ndarray) -> np.ndarray:
    slope, shift, level = theta
    return 2.0 / np.pi * np.arctan(slope * np.pi / 2.0 * n + shift) + level


def _algebraic(theta: np.ndarray, n: np.ndarray) -> np.ndarray:
    slope, exponent, level = theta
    return level + slope * n / (1.0 + (slope * n) ** exponent) ** (1.0 / exponent)


FAMILIES: dict[str, Family] = {
    "power": Family(_power, (0.0, 0.02, -1.0), (20.0, 4.0, 1.0), ((0.3, 0.5, 0.7), (1.0, 0.1, 1.0), (0.1, 1.5, 0.5))),
    "logarithmic": Family(_logarithmic, (0.0, 0.0, -2.0), (2.0, 10.0, 2.0), ((0.1, 0.01, 0.5), (0.3, 1.0, 0.2))),
    "arctan": Family(_arctan, (0.0, -20.0, -1.0), (500.0, 20.0, 2.0), ((1.0, 0.0, 0.0), (10.0, 1.0, -0.4))),
    "algebraic": Family(_algebraic, (1e-6, 0.1, -1.0), (500.0, 20.0, 1.0), ((1.0, 1.0, 0.0), (10.0, 0.4, -0.3))),
}


@dataclass(frozen=True)
class Curve:
    """A fitted member of a family. unit: samples that are one in its sizes. error: root mean square of the fit."""

    family: str
    theta: tuple[float, ...]
    unit: float
    error: float

    def __call__(self, samples: np.ndarray | float) -> np.ndarray:
        sizes = np.asarray(samples, dtype=np.float64) / self.unit
        return FAMILIES[self.family].shape(np.array(self.theta), sizes)

    def need(self, target: float, most: float = MOST) -> float:
        """The least number of samples that reaches `target`, by bisection; infinite beyond `most` times the unit."""
        low, high = 1e-6 * self.unit, most * self.unit
        if float(self(high)) < target:
            return float("inf")
        for _ in range(100):
            middle = float(np.sqrt(low * high))
            low, high = (low, middle) if float(self(middle)) >= target else (middle, high)
        return high


def fit_curve(family: str, samples: np.ndarray, scores: np.ndarray, start: Curve | None = None) -> Curve:
    """samples (N,) > 0, scores (N,). start: a curve of the same sizes to begin with; None: all of the family's starts.
    Weights are the samples, as in the paper: what is large is what is asked about.

    Raises ValueError for fewer than three sizes.
    """
    samples, scores = np.asarray(samples, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if len(np.unique(samples)) < 3 or (samples <= 0).any():
        raise ValueError(
            f"a curve of three parameters wants three sizes above 0, found {sorted(set(samples.tolist()))}"
        )
    chosen, unit = FAMILIES[family], float(samples.max())
    sizes, weights = samples / unit, np.sqrt(samples / unit)

    def residuals(theta: np.ndarray) -> np.ndarray:
        return weights * (chosen.shape(theta, sizes) - scores)

    bounds = (np.array(chosen.low), np.array(chosen.high))
    starts = chosen.starts if start is None else (np.clip(start.theta, bounds[0] + 1e-9, bounds[1] - 1e-9),)
    tries = [least_squares(residuals, theta, bounds=bounds, x_scale="jac", max_nfev=100) for theta in starts]
    best = min(tries, key=lambda found: found.cost)
    error = float(np.sqrt(np.average((chosen.shape(best.x, sizes) - scores) ** 2, weights=sizes)))
    return Curve(family, tuple(best.x.tolist()), unit, error)
