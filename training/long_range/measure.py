"""How far pseudo boxes are from the 3D boxes that were held back."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bev_perception.evaluation.metrics import TallySum, score_tally
from bev_perception.evaluation.objects import make_objects
from bev_perception.geometry import transform_points
from bev_perception.model_spec import ModelSpec
from training.data.nuscenes import Keyframe
from training.long_range.far_objects import Maker, Seen, by_head, made, radar_returns, seen_objects
from training.long_range.near_objects import distances
from training.long_range.network import InverseHead
from training.long_range.pseudo import Pseudo, height_rule
from training.long_range.views import Floats
from training.scoring import tally_found

TRUE, RULE, WITH_RADAR = "3D labels", "height of the class", " + radar"
EXACT, PIXELS = "exact", "whole pixels"
BEYOND_M = 50.0  # where the benchmark ends
INNER_M = (30.0, 40.0)  # limits between, beyond the labels
COLUMNS = ("method", "boxes", "low", "high", "objects", "share_made", "median_relative", "within_10_percent",
           "within_2_m", "median_metres", "inside_90", "share_radar", "ap")  # fmt: skip


@dataclass
class Tallied:
    """What is gathered of one method with one kind of 2D boxes: parts by keyframe."""

    tally: TallySum = field(default_factory=TallySum)
    metres: list[Floats] = field(default_factory=list)  # of the true box from the vehicle
    relative: list[Floats] = field(default_factory=list)  # log of made depth over true
    depth_off: list[Floats] = field(default_factory=list)  # m
    apart: list[Floats] = field(default_factory=list)  # m between centres, on the ground
    scale: list[Floats] = field(default_factory=list)
    returns: list[NDArray[np.int64]] = field(default_factory=list)


def limits_of(labelled_to: float) -> tuple[tuple[float, float], ...]:
    """(low, high) m of the rows: what is labelled, all beyond, and its parts."""
    edges = [labelled_to, *(edge for edge in INNER_M if edge > labelled_to), BEYOND_M]
    return (0.0, labelled_to), (labelled_to, BEYOND_M), *pairwise(edges)


def measure(
    keyframes: Iterable[Keyframe],
    spec: ModelSpec,
    heads: Mapping[str, InverseHead],
    labelled_to: float,
    radar: bool = False,
) -> list[dict[str, str | float]]:
    """Rows of COLUMNS. heads: name -> head, all with crops of one size; the first says how large the classes are."""
    limits = limits_of(labelled_to)
    first = next(iter(heads.values()))
    tallied: dict[tuple[str, str], Tallied] = {}
    annotated: list[Floats] = []
    for keyframe in keyframes:
        annotated.append(distances(keyframe))
        makers: dict[str, Maker] = {RULE: lambda looks: height_rule(first, looks)}
        makers |= {name: by_head(head) for name, head in heads.items()}
        if radar:
            returns = radar_returns(keyframe, spec)
            makers |= {name + WITH_RADAR: by_head(head, returns) for name, head in heads.items()}
        for boxes in (EXACT, PIXELS):
            parts = seen_objects(keyframe, np.arange(len(keyframe.labels)), spec, first.config.crop, boxes == PIXELS)
            if boxes == EXACT:
                rows = np.concatenate([np.zeros(0, np.int64), *(part.rows for part in parts)])
                none = np.zeros(len(rows))
                of = Pseudo(keyframe.boxes[rows], _depths(parts, keyframe), none, none.astype(np.int64))
                _add(tallied.setdefault((TRUE, boxes), Tallied()), keyframe, spec, parts, rows, of, limits)
            for name, make in makers.items():
                rows, found = made(parts, make)
                _add(tallied.setdefault((name, boxes), Tallied()), keyframe, spec, parts, rows, found, limits)
    every = np.concatenate([np.zeros(0), *annotated])
    return [
        {"method": name, "boxes": boxes, **row}
        for (name, boxes), one in tallied.items()
        for row in _rows(one, every, limits)
    ]


def _add(
    to: Tallied,
    keyframe: Keyframe,
    spec: ModelSpec,
    parts: list[Seen],
    rows: NDArray[np.int64],
    found: Pseudo,
    limits: tuple[tuple[float, float], ...],
) -> None:
    names = tuple(spec.classes[label] for label in keyframe.labels[rows])
    sure = np.exp(-np.nan_to_num(found.scale))
    objects = make_objects(found.boxes, np.full((len(rows), 2), np.nan), sure, names)
    to.tally.add(tally_found(keyframe, spec, objects, ranges=limits))
    true = _depths(parts, keyframe)
    to.metres.append(distances(keyframe)[rows])
    to.relative.append(np.log(found.depth / true))
    to.depth_off.append(np.abs(found.depth - true))
    to.apart.append(np.hypot(*(found.boxes[:, :2] - keyframe.boxes[rows, :2]).T))
    to.scale.append(found.scale)
    to.returns.append(found.returns)


def _depths(parts: list[Seen], keyframe: Keyframe) -> Floats:
    """(N,) true depths along the axis of the camera that sees the object."""
    found = [transform_points(part.looks.cam_from_ego, keyframe.boxes[part.rows, :3])[:, 2] for part in parts]
    return np.concatenate([np.zeros(0), *found])


def _rows(one: Tallied, every: Floats, limits: tuple[tuple[float, float], ...]) -> list[dict[str, str | float]]:
    scores = score_tally(one.tally.whole())
    metres, log_off, off = (np.concatenate(part) for part in (one.metres, one.relative, one.depth_off))
    apart, scale, returns = (np.concatenate(part) for part in (one.apart, one.scale, one.returns))
    rows: list[dict[str, str | float]] = []
    for (low, high), ranged in zip(limits, scores.ranges, strict=True):
        own = (metres > low) & (metres <= high)
        relative, known = np.abs(np.expm1(log_off[own])), np.isfinite(scale[own]) & (scale[own] > 0)
        inside = np.abs(log_off[own]) <= math.log(10) * scale[own]
        rows.append(
            {
                "low": low,
                "high": high,
                "objects": int(own.sum()),
                "share_made": own.sum() / max(((every > low) & (every <= high)).sum(), 1),
                "median_relative": _median(relative),
                "within_10_percent": _mean(relative <= 0.1),
                "within_2_m": _mean(off[own] <= 2),
                "median_metres": _median(apart[own]),
                "inside_90": _mean(inside[known]),
                "share_radar": _mean(returns[own] > 0),
                "ap": ranged.mean_ap,
            }
        )
    return rows


def _median(values: NDArray[Any]) -> float:
    return float(np.median(values)) if len(values) else math.nan


def _mean(flags: NDArray[np.bool_]) -> float:
    return float(np.mean(flags)) if len(flags) else math.nan


def as_csv(rows: Iterable[Mapping[str, str | float]]) -> str:
    """Numbers in four digits, empty where there is none."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_text(row[name]) for name in COLUMNS])
    return file.getvalue()


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.4g}"
