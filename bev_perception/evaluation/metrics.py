"""The official nuScenes detection metric on plain objects, computed by nuscenes-devkit's own functions.

The devkit's DetectionEval wants a data set on disk; here the same `accumulate`, `calc_ap`, `calc_tp` and
`DetectionMetrics` (configuration detection_cvpr_2019) run on objects of any source. All its rules hold: class ranges by
each box's own distance to the ego vehicle, ground truth without a single point is dropped, 500 boxes a frame at most.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.data_classes import (
    DetectionBox,
    DetectionConfig,
    DetectionMetricData,
    DetectionMetrics,
)

from bev_perception.evaluation.objects import Objects

RANGES = ((0.0, 15.0), (15.0, 30.0), (30.0, 50.0))  # metres, rows of the table by range
NO_VELOCITY = ("traffic_cone", "barrier")  # classes without velocity and attribute errors


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


def official_config() -> DetectionConfig:
    """detection_cvpr_2019, as shipped in nuscenes-devkit."""
    return config_factory("detection_cvpr_2019")


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
    config = official_config()
    limit = config.max_boxes_per_sample
    vehicle = dict.fromkeys(ground_truth, np.zeros(3)) if vehicle is None else vehicle
    wanted = {stamp: _eval_boxes(stamp, objects, vehicle[stamp]) for stamp, objects in ground_truth.items()}
    found = {
        stamp: _eval_boxes(stamp, strongest(objects, limit), vehicle[stamp]) for stamp, objects in detections.items()
    }
    return score_eval_boxes(_filtered(wanted, config), _filtered(found, config), config, ranges)


def in_common(
    ground_truth: Mapping[int, Objects], detections: Mapping[int, Objects]
) -> tuple[dict[int, Objects], dict[int, Objects]]:
    """Both restricted to the stamps that both have, in order of time: a live node scores on the frames it processed."""
    stamps = sorted(set(ground_truth) & set(detections))
    return {s: ground_truth[s] for s in stamps}, {s: detections[s] for s in stamps}


def strongest(objects: Objects, limit: int) -> Objects:
    """The `limit` objects of the highest scores, in the same order: the benchmark takes no more of a frame."""
    if len(objects) <= limit:
        return objects
    mask = np.zeros(len(objects), dtype=bool)
    mask[np.argsort(-objects.scores, kind="stable")[:limit]] = True
    return objects.select(mask)


def _eval_boxes(stamp: int, objects: Objects, vehicle: np.ndarray) -> list[DetectionBox]:
    return [
        DetectionBox(
            sample_token=str(stamp),
            translation=tuple(box[:3].tolist()),
            size=(float(box[4]), float(box[3]), float(box[5])),  # the devkit's order is w l h
            rotation=(math.cos(box[6] / 2), 0.0, 0.0, math.sin(box[6] / 2)),
            velocity=tuple(objects.velocity[k].tolist()),
            ego_translation=tuple((box[:3] - vehicle).tolist()),
            num_pts=int(objects.num_points[k]),
            detection_name=objects.names[k],
            detection_score=float(objects.scores[k]),
            attribute_name=objects.attributes[k],
        )
        for k, box in enumerate(objects.boxes)
    ]


def _filtered(boxes: Mapping[int, list[DetectionBox]], config: DetectionConfig) -> EvalBoxes:
    """The devkit's filter_eval_boxes without its bike racks, which only nuScenes annotates."""
    result = EvalBoxes()
    for stamp, rows in boxes.items():
        kept = [b for b in rows if b.ego_dist < config.class_range[b.detection_name] and b.num_pts != 0]
        result.add_boxes(str(stamp), kept)
    return result


def score_eval_boxes(
    wanted: EvalBoxes,
    found: EvalBoxes,
    config: DetectionConfig,
    ranges: tuple[tuple[float, float], ...] = RANGES,
) -> Scores:
    """Filtered boxes of the devkit -> Scores; the one computation behind bags and nuScenes-format data sets."""
    metrics, curves = _official(wanted, found, config)
    counts = {name: sum(b.detection_name == name for b in wanted.all) for name in config.class_names}
    predicted = {name: sum(b.detection_name == name for b in found.all) for name in config.class_names}
    classes = {
        name: ClassScore(
            float(metrics.mean_dist_aps[name]),
            {d: metrics.get_label_ap(name, d) for d in config.dist_ths},
            Errors(*(float(metrics.get_label_tp(name, m)) for m in TP_METRICS)),
            counts[name],
            predicted[name],
            _best_score(curves[name]),
        )
        for name in config.class_names
    }
    return Scores(
        metrics.mean_ap,
        metrics.nd_score,
        Errors(*(metrics.tp_errors[m] for m in TP_METRICS)),
        _mean([c.ap for c in classes.values() if c.ground_truth]),
        classes,
        tuple(_score_range(wanted, found, config, low, high) for low, high in ranges),
        len(wanted.sample_tokens),
    )


def _best_score(curve: DetectionMetricData) -> float:
    f1 = 2 * curve.precision * curve.recall / np.maximum(curve.precision + curve.recall, 1e-9)
    return float(curve.confidence[np.argmax(f1)]) if f1.max() > 0 else math.nan


def _official(
    wanted: EvalBoxes, found: EvalBoxes, config: DetectionConfig
) -> tuple[DetectionMetrics, dict[str, DetectionMetricData]]:
    """DetectionEval.evaluate of the devkit, step for step; with the curves at the true-positive distance."""
    metrics, curves = DetectionMetrics(config), {}
    for name in config.class_names:
        data = {d: accumulate(wanted, found, name, config.dist_fcn_callable, d) for d in config.dist_ths}
        curves[name] = data[config.dist_th_tp]
        for distance, curve in data.items():
            metrics.add_label_ap(name, distance, calc_ap(curve, config.min_recall, config.min_precision))
        for metric in TP_METRICS:
            undefined = (name in NO_VELOCITY and metric in ("attr_err", "vel_err")) or (
                name == "traffic_cone" and metric == "orient_err"
            )
            error = np.nan if undefined else calc_tp(data[config.dist_th_tp], config.min_recall, metric)
            metrics.add_label_tp(name, metric, error)
    return metrics, curves


def _score_range(wanted: EvalBoxes, found: EvalBoxes, config: DetectionConfig, low: float, high: float) -> RangeScore:
    def inside(boxes: EvalBoxes) -> EvalBoxes:
        result = EvalBoxes()
        for token in boxes.sample_tokens:
            result.add_boxes(token, [b for b in boxes[token] if low <= b.ego_dist < high])
        return result

    near, near_found = inside(wanted), inside(found)
    metrics, _ = _official(near, near_found, config)
    present = [name for name in config.class_names if any(b.detection_name == name for b in near.all)]
    errors = Errors(*(_mean([float(metrics.get_label_tp(name, m)) for name in present]) for m in TP_METRICS))
    return RangeScore(low, high, _mean([float(metrics.mean_dist_aps[n]) for n in present]), errors, len(near.all))


def _mean(values: list[float]) -> float:
    """Mean of the numbers that are defined; NaN where none is."""
    defined = [v for v in values if not math.isnan(v)]
    return sum(defined) / len(defined) if defined else math.nan
