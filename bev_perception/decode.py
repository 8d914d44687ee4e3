"""Candidates of the network -> boxes: thresholds, box coding and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bev_perception.model_spec import BOX_CHANNELS, SPREAD_CHANNELS, ModelSpec
from bev_perception.nms import circle_nms, rotated_nms, strongest
from bev_perception.spread import METRIC_CHANNELS, metric_variances

# What no box of traffic has; a candidate beyond is a fault of the network, whatever its score.
EDGE_MARGIN_M = 5.0  # a centre beyond the grid: its cell is in the grid, its offset a cell or so
HEIGHT_LIMITS_M = (-30.0, 30.0)  # of the centre above base_link: steep roads, bridges
SIZE_LIMITS_M = (0.01, 100.0)  # a road train has 54 m
SPEED_LIMIT_MPS = 100.0


@dataclass(frozen=True)
class Thresholds:
    """What an integrator may choose about decoding; every dict is keyed by class name.

    score: least score. nms_radius: of two boxes of a class nearer than this (m, centre distance) the weaker goes.
    score_by_range: rows (up_to_m, least score) of rising distance from base_link; beyond the last row `score` holds.
    """

    score: Mapping[str, float]
    nms_radius: Mapping[str, float]
    score_by_range: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoded:
    """boxes (M, 7) float32 x y z l w h yaw, velocity (M, 2) float32 m/s, scores (M,) float32, labels (M,) int64.

    Sorted by falling score. not_finite: candidates dropped because the network gave NaN, infinity or what float32 does
    not hold for them; out_of_range: because of a label, cell, place, size or speed that there is not.
    """

    boxes: np.ndarray
    velocity: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    not_finite: int = 0
    out_of_range: int = 0
    variances: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, len(METRIC_CHANNELS))))


def thresholds_of(spec: ModelSpec) -> Thresholds:
    """The thresholds that the bundle recommends."""
    return Thresholds(spec.score_threshold, spec.nms_radius)


def decode(outputs: Mapping[str, np.ndarray], spec: ModelSpec, thresholds: Thresholds | None = None) -> Decoded:
    """scores, labels, cells (K,), boxes (K, BOX_CHANNELS) and log_std (K, P, SPREAD_CHANNELS), where the network gives
    it, of one frame -> Decoded, in the ego frame.

    The box coding is CenterPoint's (Yin et al., CVPR 2021).
    """
    thresholds = thresholds or thresholds_of(spec)
    scores, labels, cells = (np.asarray(outputs[name]) for name in ("scores", "labels", "cells"))
    channels = np.asarray(outputs["boxes"])
    log_std = np.asarray(outputs["log_std"]) if spec.spread else np.zeros((len(scores), 0, len(SPREAD_CHANNELS)))
    with np.errstate(over="ignore"):  # an absurd log dimension, or a number beyond float32, becomes infinite
        boxes, velocity = boxes_from_cells(cells, channels, spec)
        published = np.hstack([boxes, velocity, scores[:, None]]).astype(np.float32)
    finite = np.isfinite(published).all(axis=1) & np.isfinite(log_std).all(axis=(1, 2))
    valid = finite & _in_range(labels, cells, boxes, velocity, spec)
    candidates = np.flatnonzero(valid)
    least = _least_scores(boxes[candidates], labels[candidates], spec.classes, thresholds)
    candidates = candidates[scores[candidates] >= least]
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    kept = order[_thin_out(boxes[order], labels[order], spec, thresholds)]
    return Decoded(
        published[kept, :7],
        published[kept, 7:9],
        published[kept, 9],
        labels[kept].astype(np.int64),
        int(np.count_nonzero(~finite)),
        int(np.count_nonzero(finite & ~valid)),
        metric_variances(log_std[kept], channels[kept]),
    )


def boxes_from_cells(cells: np.ndarray, channels: np.ndarray, spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    """(K,) flat cells and (K, BOX_CHANNELS) -> boxes (K, 7), velocity (K, 2), float64; the inverse of the targets."""
    of = {name: channels[:, i].astype(np.float64) for i, name in enumerate(BOX_CHANNELS)}
    ix, iy = np.divmod(cells, spec.grid.shape[1])
    x = spec.grid.x_min + (ix + of["dx"]) * spec.grid.step
    y = spec.grid.y_min + (iy + of["dy"]) * spec.grid.step
    yaw = np.arctan2(of["sin_yaw"], of["cos_yaw"])
    length, width, height = (np.exp(of[name]) for name in ("log_l", "log_w", "log_h"))
    return np.stack([x, y, of["z"], length, width, height, yaw], axis=1), np.stack([of["vx"], of["vy"]], axis=1)


def _in_range(
    labels: np.ndarray, cells: np.ndarray, boxes: np.ndarray, velocity: np.ndarray, spec: ModelSpec
) -> np.ndarray:
    """(K,) bool; comparisons with NaN are false."""
    grid, (x, y, z), size = spec.grid, boxes[:, :3].T, boxes[:, 3:6]
    return (
        (labels >= 0)
        & (labels < len(spec.classes))
        & (cells >= 0)
        & (cells < grid.shape[0] * grid.shape[1])
        & (x >= grid.x_min - EDGE_MARGIN_M)
        & (x <= grid.x_max + EDGE_MARGIN_M)
        & (y >= grid.y_min - EDGE_MARGIN_M)
        & (y <= grid.y_max + EDGE_MARGIN_M)
        & (z >= HEIGHT_LIMITS_M[0])
        & (z <= HEIGHT_LIMITS_M[1])
        & (size >= SIZE_LIMITS_M[0]).all(axis=1)
        & (size <= SIZE_LIMITS_M[1]).all(axis=1)
        & (np.linalg.norm(velocity, axis=1) <= SPEED_LIMIT_MPS)
    )


def _thin_out(boxes: np.ndarray, labels: np.ndarray, spec: ModelSpec, thresholds: Thresholds) -> np.ndarray:
    """Indices of the boxes (M, 7), by falling score, that stay."""
    count = len(spec.classes)
    group, iou, scale, most = np.arange(count), np.zeros(count), np.ones(count), np.zeros(count)
    for number, nms in enumerate(spec.nms, count):
        of = [spec.classes.index(name) for name in nms.classes]
        group[of], iou[of], scale[of], most[of] = number, nms.iou, nms.scale or 1.0, nms.most
    radii = np.array([thresholds.nms_radius[name] for name in spec.classes])
    overlapping = iou[labels] > 0
    kept = np.flatnonzero(~overlapping)
    kept = kept[circle_nms(boxes[kept, :2], group[labels[kept]], radii[labels[kept]])]
    if overlapping.any():
        rest = np.flatnonzero(overlapping)
        scaled = boxes[rest]
        scaled[:, 3:5] *= scale[labels[rest], None]
        kept = np.sort(np.concatenate([kept, rest[rotated_nms(scaled, group[labels[rest]], iou[labels[rest]])]]))
    return kept[strongest(group[labels[kept]], most[labels[kept]])] if most.any() else kept


def _least_scores(
    boxes: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], thresholds: Thresholds
) -> np.ndarray:
    """(M,) threshold of each box by its class and its distance from base_link."""
    least = np.array([thresholds.score[name] for name in classes])[labels]
    distance = np.hypot(boxes[:, 0], boxes[:, 1])
    for name, rows in thresholds.score_by_range.items():
        of_class = labels == classes.index(name)
        for up_to_m, score in reversed(rows):  # nearest row last: it wins
            least[of_class & (distance <= up_to_m)] = score
    return least
