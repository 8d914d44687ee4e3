"""Is B better than A on the same drives, or was it these drives?

The paired bootstrap: drives are drawn with repetition, both are scored on the same draw, and the spread of the
differences says what is certain (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; whole
drives, as their frames are alike).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bev_perception.evaluation.benchmark import curve, means, nds
from bev_perception.evaluation.matching import CLASS_RANGE, Matched, join
from bev_perception.evaluation.metrics import Tally

DRAWS = 1000
INSIDE = 95.0  # percent of the draws within the interval


@dataclass(frozen=True)
class Difference:
    """B minus A over all drives; low, high: where it lies in 95 % of the draws. NaN where one drive allows no draw."""

    value: float
    low: float
    high: float

    def text(self, unit: float = 100.0) -> str:
        return f"{self.value * unit:+.1f} [{self.low * unit:+.1f}, {self.high * unit:+.1f}]"


class _Rows:
    """All rows of some drives: class -> (matched, drive of each row, objects of each drive)."""

    def __init__(self, drives: Sequence[Tally]) -> None:
        self.classes: dict[str, tuple[Matched, np.ndarray, np.ndarray]] = {}
        for name in CLASS_RANGE:
            parts = [drive.whole[name] for drive in drives]
            of_row = np.repeat(np.arange(len(parts)), [len(part.scores) for part in parts])
            self.classes[name] = join(parts), of_row, np.array([part.wanted for part in parts])

    def scores(self, weights: np.ndarray) -> tuple[float, float]:
        """(mAP, NDS), each drive there as often as its weight says."""
        curves = {
            name: curve(matched, weights[of_row], float(weights @ wanted))
            for name, (matched, of_row, wanted) in self.classes.items()
        }
        mean_ap, errors = means(curves)
        return mean_ap, nds(mean_ap, errors.tolist())


def compare_scores(a: Sequence[Tally], b: Sequence[Tally], draws: int = DRAWS, seed: int = 0) -> dict[str, Difference]:
    """`mean_ap` and `nds` of B minus A; a[i] and b[i] are of the same frames. Raises ValueError where they are not."""
    if [drive.frames for drive in a] != [drive.frames for drive in b]:
        raise ValueError("the drives of the two results have different frames; they must be of the same recordings")
    one, other = _Rows(a), _Rows(b)
    each = np.ones(len(a))
    whole = np.subtract(other.scores(each), one.scores(each))
    spread = np.full((2, 2), np.nan)
    if len(a) > 1:
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(a), each / len(a), size=draws).astype(np.float64)
        found = np.array([np.subtract(other.scores(weights), one.scores(weights)) for weights in drawn])
        rest = (100 - INSIDE) / 2
        spread = np.percentile(found, [rest, 100 - rest], axis=0)
    return {name: Difference(*map(float, (whole[k], *spread[:, k]))) for k, name in enumerate(("mean_ap", "nds"))}
