"""How well spoilt sensors are told from clean ones: AUROC, share found, delay; and how often a clean one is accused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from bev_perception.model_spec import ModelSpec
from bev_perception.sync_config import NS
from bev_perception.usual.monitor import HealthMonitor
from bev_perception.usual.statistics import SCENE
from bev_perception.usual.table import HealthTable
from training.health.collecting import Drive, Found

ONSET = 0.4  # of a drive is clean before it is spoilt


@dataclass(frozen=True)
class Judged:
    """Of one drive, frame by frame: scores (F, S) as shares of their thresholds, alarms (F, S), texts of the alarms."""

    sensors: tuple[str, ...]
    scores: np.ndarray
    alarms: np.ndarray
    texts: tuple[dict[str, str], ...]


def judge(table: HealthTable, spec: ModelSpec, stamps_ns: np.ndarray, found: Found) -> Judged:
    """By the vehicle's own monitor."""
    monitor = HealthMonitor(table, spec)
    readings = []
    for index, stamp_ns in enumerate(stamps_ns):
        monitor.add(int(stamp_ns), {part: values[index] for part, values in found.items()})
        readings.append(monitor.readings())
    return Judged(
        tuple(reading.name for reading in readings[0]),
        np.array([[r.score / r.threshold for r in row] for row in readings]),
        np.array([[r.alarm for r in row] for row in readings]),
        tuple({r.name: r.text for r in row if r.alarm} for row in readings),
    )


def spoilt_from(clean: Drive, spoilt: Drive, onset: int) -> Found:
    """Clean until `onset`, spoilt from there on."""
    return {part: np.concatenate([clean.found[part][:onset], spoilt.found[part][onset:]]) for part in spoilt.found}


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The chance that one of the first is larger than one of the second, ties half; NaN without any."""
    if not len(positive) or not len(negative):
        return float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def measure(table: HealthTable, spec: ModelSpec, pairs: Sequence[tuple[Drive, Drive]]) -> dict[str, Any]:
    """pairs: (clean, spoilt) of the same scenes -> plain numbers.

    A sensor whose data were changed is found where it has an alarm in some frame from the onset on, which delays count
    as 1. delay: the median of all of them, None where half are never found. scene: share of drives with an alarm of the
    scene; others: of the sensors that were left alone.
    """
    positive, negative, delays, seconds, scene, others = [], [], [], [], [], []
    said: Counter[str] = Counter()
    for clean, spoilt in pairs:
        onset = max(1, round(ONSET * len(clean.stamps_ns)))
        whole = judge(table, spec, clean.stamps_ns, clean.found)
        found = judge(table, spec, clean.stamps_ns, spoilt_from(clean, spoilt, onset))
        for row, sensor in enumerate(found.sensors):
            late = found.alarms[onset:, row]
            if sensor == SCENE:
                scene.append(late.any())
            elif sensor not in spoilt.affected:
                others.append(late.any())
            else:
                positive.append(found.scores[onset:, row])
                negative.append(whole.scores[onset:, row])
                first = int(late.argmax()) if late.any() else None
                delays.append(np.inf if first is None else first + 1)
                if first is not None:
                    seconds.append((clean.stamps_ns[onset + first] - clean.stamps_ns[onset]) / NS)
                    said[found.texts[onset + first][sensor].partition(":")[0].partition(",")[0]] += 1
    middle = float(np.median(delays)) if delays else np.inf
    return {
        "sensors": len(delays),
        "auroc": auroc(_known(positive), _known(negative)),
        "found": float(np.isfinite(delays).mean()) if delays else None,
        "delay_frames": middle if np.isfinite(middle) else None,
        "delay_s": float(np.median(seconds)) if np.isfinite(middle) else None,
        "said": said.most_common(1)[0][0] if said else "",
        "scene": float(np.mean(scene)) if scene else None,
        "others": float(np.mean(others)) if others else None,
    }


def _known(rows: Sequence[np.ndarray]) -> np.ndarray:
    values = np.concatenate(rows) if rows else np.empty(0)
    return values[np.isfinite(values)]


def false_alarms(table: HealthTable, spec: ModelSpec, drives: Sequence[Drive]) -> tuple[int, float]:
    """(alarms that begin in clean drives, of all sensors and the scene; hours of driving)."""
    count, seconds = 0, 0.0
    for drive in drives:
        alarms = judge(table, spec, drive.stamps_ns, drive.found).alarms
        before = np.vstack([np.zeros_like(alarms[:1]), alarms[:-1]])
        count += int((alarms & ~before).sum())
        seconds += (drive.stamps_ns[-1] - drive.stamps_ns[0]) / NS
    return count, seconds / 3600.0
