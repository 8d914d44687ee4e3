"""The official nuScenes detection metric on plain objects (configuration detection_cvpr_2019).

Computed here, as nuscenes-devkit wants a data set on disk and an older numpy; its tests hold it against the devkit. All
rules hold: class ranges by each box's own distance to the ego vehicle, ground truth without a single point is dropped,
500 boxes a frame at most.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bev_perception.evaluation.benchmark import Curve, class_errors, curve, means, nds
from bev_perception.evaluation.matching import CLASS_RANGE, DISTANCES, Matched, join, match
from bev_perception.evaluation.objects import Objects

FOLD = 256  # tallies after which a TallySum puts them together
RANGES = ((0.0, 15.0), (15.0, 30.0), (30.0, 50.0))  # metres, rows of the table by range


@dataclass(frozen=True)
class Errors:
    """True-positive errors at 2 m: translation m, scale 1 - IoU, orientation rad, velocity m/s, attribute 1 - accuracy.

    NaN: not defined for the class. 1.0 where fewer than a tenth of the objects were found (the metric's rule).
    """

    ate: float
    ase: float
    aoe: float
    ave: float
    aae: float


@dataclass(frozen=True)
class ClassScore:
    """One class. ap is the mean of `ap_at` over the matching distances (m); counts are after the metric's filters.

    best_score: the score threshold with the highest F1 at 2 m, NaN where nothing is found.
    """

    ap: float
    ap_at: dict[float, float]
    errors: Errors
    ground_truth: int
    predictions: int
    best_score: float = math.nan


@dataclass(frozen=True)
class RangeScore:
    """Objects `low` to `high` metres from the ego vehicle; means over the classes present there (not official)."""

    low: float
    high: float
    mean_ap: float
    errors: Errors
    ground_truth: int


@dataclass(frozen=True)
class Scores:
    """mean_ap, errors and nds are the official numbers over all ten classes (a class without ground truth has AP 0).

    mean_ap_present is the mean over the classes that have ground truth: what to read on a short drive.
    """

    mean_ap: float
    nds: float
    errors: Errors
    mean_ap_present: float
    classes: dict[str, ClassScore]
    ranges: tuple[RangeScore, ...]
    frames: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes None."""
        return _plain(dataclasses.asdict(self))


def scores_from_dict(data: Mapping[str, Any]) -> Scores:
    """The inverse of Scores.to_dict, after JSON."""

    def number(value: float | None) -> float:
        return math.nan if value is None else value

    def errors(row: Mapping[str, Any]) -> Errors:
        return Errors(**{name: number(value) for name, value in row.items()})

    def class_score(row: Mapping[str, Any]) -> ClassScore:
        ap_at = {float(d): number(ap) for d, ap in row["ap_at"].items()}
        rest = {k: number(v) for k, v in row.items() if k not in ("ap_at", "errors")}
        return ClassScore(**rest, ap_at=ap_at, errors=errors(row["errors"]))  # type: ignore[arg-type]

    def range_score(row: Mapping[str, Any]) -> RangeScore:
        return RangeScore(row["low"], row["high"], number(row["mean_ap"]), errors(row["errors"]), row["ground_truth"])

    return Scores(
        number(data["mean_ap"]),
        number(data["nds"]),
        errors(data["errors"]),
        number(data["mean_ap_present"]),
        {name: class_score(row) for name, row in data["classes"].items()},
        tuple(range_score(row) for row in data["ranges"]),
        data["frames"],
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


@dataclass(frozen=True)
class Tally:
    """What the detections of some frames are: class -> rows, of all that counts and of each range of the table."""

    frames: int
    whole: dict[str, Matched]
    ranges: dict[tuple[float, float], dict[str, Matched]]


def score(
    ground_truth: Mapping[int, Objects],
    detections: Mapping[int, Objects],
    ranges: tuple[tuple[float, float], ...] = RANGES,
    vehicle: Mapping[int, np.ndarray] | None = None,
) -> Scores:
    """Score detections against ground truth, both keyed by stamp (ns) and of a stamp in one frame of reference.

    vehicle: where the vehicle is in that frame, (3,) m by stamp; None: in its origin, the boxes are in the ego frame.
    The benchmark compares in the global frame (`Objects.in_world`), seen from above, where a level vehicle's errors are
    those of its ego frame. Of one that leans they are not: by the cosine of its pitch along it, and by the sine a
    wrong height becomes a wrong place. ranges: (low, high) metres of the rows by range. Raises ValueError unless both
    have the same stamps.
    """
    if set(ground_truth) != set(detections):
        raise ValueError(
            "ground truth and detections must be of the same frames: "
            f"{len(set(ground_truth) - set(detections))} stamps are only in the ground truth, "
            f"{len(set(detections) - set(ground_truth))} only in the detections; see `in_common`"
        )
    places = {} if vehicle is None else vehicle
    tallies = [tally(wanted, detections[stamp], places.get(stamp), ranges) for stamp, wanted in ground_truth.items()]
    return score_tally(add_tallies(tallies))


def tally(
    wanted: Objects,
    found: Objects,
    vehicle: np.ndarray | None = None,
    ranges: tuple[tuple[float, float], ...] = RANGES,
) -> Tally:
    """One frame; see `matching.match`."""
    parts = {limits: match(wanted, found, vehicle, *limits) for limits in ranges}
    return Tally(1, match(wanted, found, vehicle), parts)


def add_tallies(parts: Sequence[Tally]) -> Tally:
    """Frames, or drives, after each other; all with the same ranges."""

    def added(rows: Sequence[Mapping[str, Matched]]) -> dict[str, Matched]:
        return {name: join([row[name] for row in rows if name in row]) for name in CLASS_RANGE}

    ranges = parts[0].ranges if parts else {}
    return Tally(
        sum(part.frames for part in parts),
        added([part.whole for part in parts]),
        {limits: added([part.ranges[limits] for part in parts]) for limits in ranges},
    )


class TallySum:
    """Tallies added up as they come, the arrays put together now and then: many small ones take more than what is in
    them."""

    def __init__(self) -> None:
        self._parts: list[Tally] = []

    def add(self, one: Tally) -> None:
        self._parts.append(one)
        if len(self._parts) >= FOLD:
            self._parts = [add_tallies(self._parts)]

    def whole(self) -> Tally:
        return add_tallies(self._parts)


def score_tally(whole: Tally) -> Scores:
    """Of `add_tallies`."""
    curves = {name: curve(matched) for name, matched in whole.whole.items()}
    mean_ap, errors = means(curves)
    classes = {name: _class_score(name, matched, curves[name]) for name, matched in whole.whole.items()}
    return Scores(
        mean_ap,
        nds(mean_ap, errors.tolist()),
        Errors(*errors.tolist()),
        _mean([c.ap for c in classes.values() if c.ground_truth]),
        classes,
        tuple(_score_range(low, high, part) for (low, high), part in whole.ranges.items()),
        whole.frames,
    )


def in_common(
    ground_truth: Mapping[int, Objects], detections: Mapping[int, Objects]
) -> tuple[dict[int, Objects], dict[int, Objects]]:
    """Both restricted to the stamps that both have, in order of time: a live node scores on the frames it processed."""
    stamps = sorted(set(ground_truth) & set(detections))
    return {s: ground_truth[s] for s in stamps}, {s: detections[s] for s in stamps}


def _class_score(name: str, matched: Matched, curve: Curve) -> ClassScore:
    ap = dict(zip(DISTANCES, curve.ap()))
    return ClassScore(
        _mean(list(ap.values())),
        ap,
        Errors(*class_errors(name, curve).tolist()),
        matched.wanted,
        len(matched.scores),
        curve.best_score(),
    )


def _score_range(low: float, high: float, part: Mapping[str, Matched]) -> RangeScore:
    present = {name: curve(matched) for name, matched in part.items() if matched.wanted}
    errors = np.array([class_errors(name, c) for name, c in present.items()]).reshape(-1, 5)
    return RangeScore(
        low,
        high,
        _mean([_mean(list(c.ap())) for c in present.values()]),
        Errors(*(_mean(column.tolist()) for column in errors.T)),
        sum(matched.wanted for matched in part.values()),
    )


def _mean(values: list[float]) -> float:
    """Mean of the numbers that are defined; NaN where none is."""
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan
