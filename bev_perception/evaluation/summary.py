"""Evaluated drives put together: every figure under one flat name, as a gate, a baseline and a person ask for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bev_perception.evaluation.drive import DriveResult
from bev_perception.evaluation.metrics import Scores, Tally, add_tallies, score_tally
from bev_perception.evaluation.result_folder import TALLY
from bev_perception.evaluation.tally_file import read_tally
from bev_perception.evaluation.worth import Worth, add_worths
from bev_perception.uncertainty import LEVELS

DRIVES, RESULT = "drives", "result.json"  # in the folder of a result


def tallies(folders: Sequence[Path]) -> dict[str, Tally]:
    """Name of a drive's folder -> its matched detections, of those that have ground truth."""
    return {folder.name: read_tally(folder / TALLY) for folder in folders if (folder / TALLY).exists()}


def scores_of(drives: Mapping[str, Tally]) -> Scores | None:
    return score_tally(add_tallies(list(drives.values()))) if drives else None


def figures_of(results: Sequence[DriveResult], scores: Scores | None) -> dict[str, float]:
    """Flat names -> numbers, NaN where nothing was there to measure.

    frames, boxes_per_frame, realtime (seconds of recording a second); scores.*, classes.CLASS.ap and
    ranges.LOW-HIGH.mean_ap; latency_ms.STAGE.pNN: the largest of all drives; consistency.*: means over drives, weighed
    by their frames; calibration.ece and calibration.inside_LEVEL.QUANTITY: shares of 1, where the bundle says what its
    detections are worth; used.SENSOR: share of the frames; lost.REASON: what was counted, of all drives.
    """
    frames = sum(result.frames for result in results)
    figures = {
        "drives": float(len(results)),
        "frames": float(frames),
        "boxes_per_frame": _ratio(sum(r.boxes for r in results), frames),
        "realtime": _ratio(sum(r.seconds for r in results), sum(r.wall_s for r in results)),
        "annotated": float(sum(r.annotated for r in results)),
    }
    figures |= _score_figures(scores) | _calibration_figures(worth_of(results))
    for stage in sorted({stage for r in results for stage in r.latency_ms}):
        for name in ("p50", "p95", "p99", "max"):
            figures[f"latency_ms.{stage}.{name}"] = max(r.latency_ms[stage][name] for r in results if r.latency_ms)
    for name in results[0].consistency if results else ():
        figures[f"consistency.{name}"] = _mean([(r.consistency[name], r.frames) for r in results])
    for sensor in sorted({sensor for r in results for sensor in r.used}):
        figures[f"used.{sensor}"] = _ratio(sum(r.used.get(sensor, 0) for r in results), frames)
    for reason in sorted({reason for r in results for reason in r.counters}):
        figures[f"lost.{reason}"] = float(sum(r.counters.get(reason, 0) for r in results))
    return figures


def drift(results: Sequence[DriveResult], before: Sequence[DriveResult]) -> dict[str, float]:
    """drift.CLASS: how far the distribution of published scores has moved, the largest difference of the two cumulated
    shares (Kolmogorov-Smirnov, of 20 bins); NaN where one of them has none."""
    moved = {}
    for name in results[0].score_bins if results else ():
        now, then = (sum(np.array(r.score_bins.get(name, [0] * 20)) for r in rows) for rows in (results, before))
        shares = [np.cumsum(bins) / np.sum(bins) if np.sum(bins) else None for bins in (now, then)]
        known = shares[0] is not None and shares[1] is not None
        moved[f"drift.{name}"] = float(np.abs(shares[0] - shares[1]).max()) if known else math.nan  # type: ignore[operator]
    return moved


def _score_figures(scores: Scores | None) -> dict[str, float]:
    if scores is None:
        return {"scored": 0.0}
    e = scores.errors
    figures = {"scored": float(scores.frames), "scores.mean_ap": scores.mean_ap, "scores.nds": scores.nds}
    figures |= {"scores.mean_ap_present": scores.mean_ap_present}
    figures |= {f"scores.{name}": getattr(e, name) for name in ("ate", "ase", "aoe", "ave", "aae")}
    figures |= {f"classes.{name}.ap": row.ap for name, row in scores.classes.items() if row.ground_truth}
    return figures | {f"ranges.{row.low:g}-{row.high:g}.mean_ap": row.mean_ap for row in scores.ranges}


def worth_of(results: Sequence[DriveResult]) -> Worth | None:
    """Of all drives; None where the bundle says nothing of its detections' worth, or nothing was scored."""
    known = [result.worth for result in results if result.worth is not None]
    return add_worths(known) if known else None


def _calibration_figures(worth: Worth | None) -> dict[str, float]:
    if worth is None:
        return {}
    held = {
        f"calibration.inside_{100 * level:g}.{name}": share
        for name, found in worth.intervals.items()
        for level, share in zip(LEVELS, found.shares())
    }
    return {"calibration.ece": worth.probability.error(), **held}


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def _mean(values: Sequence[tuple[float | None, int]]) -> float:
    known = [(value, weight) for value, weight in values if value is not None]
    return _ratio(sum(value * weight for value, weight in known), sum(weight for _, weight in known))
