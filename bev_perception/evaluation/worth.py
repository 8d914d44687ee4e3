"""Does it hold what a bundle says of its detections? Probabilities against the share that is right, intervals against
the errors that they hold; as sums, so that frames and drives add up."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bev_perception.evaluation.box_errors import BOX_ERRORS, box_errors
from bev_perception.evaluation.judged import judge
from bev_perception.evaluation.objects import Objects, objects_from_detections
from bev_perception.evaluation.reliability import BINS, Reliability, add_reliabilities, reliability
from bev_perception.files import naming, read_text
from bev_perception.plain import from_plain, parse_json, to_plain
from bev_perception.structures import Detections, Uncertainty
from bev_perception.uncertainty import LEVELS, turned

LIMIT = 2**20  # bytes of a file of these sums
PUBLISHED = ("x", "y", "yaw", "vx", "vy")  # of BOX_ERRORS, what messages have variances of and people plan with


@dataclass(frozen=True)
class Covered:
    """Of one quantity: count of errors that are known, how many of them lay inside the interval of each of LEVELS, and
    the sum of the deviations."""

    count: int
    inside: tuple[int, ...]
    deviation: float

    def shares(self) -> tuple[float, ...]:
        """At each of LEVELS; NaN without errors."""
        return tuple(n / self.count if self.count else math.nan for n in self.inside)

    def mean_deviation(self) -> float:
        """Sharpness: of two that hold what they say, the smaller one says more."""
        return self.deviation / self.count if self.count else math.nan


def covered(errors: np.ndarray, deviations: np.ndarray, inside: np.ndarray) -> Covered:
    """errors (N,), NaN where there is none; deviations (N,); inside (N, LEVELS): half the width of the interval that is
    said to hold the error so often."""
    known = np.isfinite(errors)
    held = (np.abs(errors[known, None]) <= inside[known]).sum(axis=0)
    return Covered(int(known.sum()), tuple(held.tolist()), float(deviations[known].sum()))


@dataclass(frozen=True)
class Worth:
    """probability: `existence_probability` against right and wrong, of all detections within the benchmark's ranges.
    intervals: of PUBLISHED, of the detections that are right."""

    probability: Reliability
    intervals: dict[str, Covered]

    @property
    def detections(self) -> int:
        return sum(self.probability.count)


NOTHING = Worth(
    Reliability((0,) * BINS, (0.0,) * BINS, (0,) * BINS),
    dict.fromkeys(PUBLISHED, Covered(0, (0,) * len(LEVELS), 0.0)),
)


def worth(
    wanted: Objects, found: Detections, classes: tuple[str, ...], factors: Mapping[str, tuple[float, float, float]]
) -> Worth:
    """Of one frame whose detections have an `uncertainty`; factors: UncertaintyTable.intervals.

    As detections are scored: those beyond their class's range are left out, each object is the strongest detection's
    near it (judged.judge).
    """
    uncertainty = found.uncertainty
    assert uncertainty is not None  # the bundle has a table
    objects = objects_from_detections(found, classes)
    judged = judge(wanted, objects)
    counted, right = judged.hit | judged.false, np.flatnonzero(judged.hit)
    errors = box_errors(wanted, objects, right, judged.partner[right])
    deviations, inside = half_widths(objects.boxes, uncertainty, factors)
    return Worth(
        reliability(uncertainty.probability[counted], judged.hit[counted]),
        {
            name: covered(errors[:, BOX_ERRORS.index(name)], deviations[name][right], inside[name][right])
            for name in PUBLISHED
        },
    )


def half_widths(
    boxes: np.ndarray, uncertainty: Uncertainty, factors: Mapping[str, tuple[float, float, float]]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Of boxes (M, 7): name of PUBLISHED -> deviation (M,), and -> half the width (M, LEVELS) of its intervals.

    The table's factors are along and across the line of sight, where errors are independent. In x and y the two
    intervals add up as variances do: of a box straight ahead that of x is the one along the line.
    """
    angle = np.arctan2(boxes[:, 1], boxes[:, 0])
    deviations, inside = {"yaw": np.sqrt(uncertainty.pose[:, 3, 3])}, {}
    inside["yaw"] = deviations["yaw"][:, None] * factors["yaw"]
    for pair, covariance, channels in (
        (("x", "y"), uncertainty.pose[:, :2, :2], ("along", "across")),
        (("vx", "vy"), uncertainty.velocity, ("speed_along", "speed_across")),
    ):
        along, across = _in_line_of_sight(covariance, angle)
        squares = [
            turned(along * factors[channels[0]][level] ** 2, across * factors[channels[1]][level] ** 2, angle)
            for level in range(len(LEVELS))
        ]
        for axis, name in enumerate(pair):
            deviations[name] = np.sqrt(covariance[:, axis, axis])
            inside[name] = np.sqrt(np.stack([square[:, axis, axis] for square in squares], axis=1))
    return deviations, inside


def _in_line_of_sight(covariance: np.ndarray, angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, 2, 2) in x and y -> variances (M,) along and across: the inverse of uncertainty.turned."""
    cos, sin = np.cos(angle), np.sin(angle)
    xx, yy, xy = covariance[:, 0, 0], covariance[:, 1, 1], covariance[:, 0, 1]
    mixed = 2 * xy * cos * sin
    return xx * cos**2 + yy * sin**2 + mixed, xx * sin**2 + yy * cos**2 - mixed


def add_worths(parts: Sequence[Worth]) -> Worth:
    """Frames, or drives, after each other."""
    parts = parts or [NOTHING]
    return Worth(
        add_reliabilities([part.probability for part in parts]),
        {name: _added([part.intervals[name] for part in parts]) for name in PUBLISHED},
    )


def worth_json(found: Worth) -> str:
    return json.dumps(to_plain(found)) + "\n"


def read_worth(path: Path) -> Worth:
    """Raises ValueError for what is no such file of this version, OSError where it cannot be read."""
    with naming(path):
        found: Worth = from_plain(Worth, parse_json(read_text(path, LIMIT)), "worth")
    return found


def is_worth(path: Path) -> bool:
    """Whether a file can be replaced as one of these."""
    try:
        read_worth(path)
    except (ValueError, OSError):
        return False
    return True


def _added(parts: Sequence[Covered]) -> Covered:
    inside = tuple(map(sum, zip(*(part.inside for part in parts))))
    return Covered(sum(part.count for part in parts), inside, sum(part.deviation for part in parts))
