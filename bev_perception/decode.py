"""Peaks of the network -> boxes: thresholds, box coding and circle NMS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from bev_perception.model_spec import BOX_CHANNELS, ModelSpec


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

    Sorted by falling score. not_finite: peaks dropped because the network gave NaN or infinity for them.
    """

    boxes: np.ndarray
    velocity: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    not_finite: int = 0


def thresholds_of(spec: ModelSpec) -> Thresholds:
    """The thresholds that the bundle recommends."""
    return Thresholds(spec.score_threshold, spec.nms_radius)


def decode(outputs: Mapping[str, np.ndarray], spec: ModelSpec, thresholds: Thresholds | None = None) -> Decoded:
    """scores, labels, cells (K,) and boxes (K, BOX_CHANNELS) of one frame -> Decoded, in the ego frame.

    The box coding is CenterPoint's (Yin et al., CVPR 2021), NMS compares metres (not their squares).
    """
    thresholds = thresholds or thresholds_of(spec)
    scores, labels, cells = (np.asarray(outputs[name]) for name in ("scores", "labels", "cells"))
    with np.errstate(over="ignore"):  # an absurd log dimension becomes infinite and is dropped below
        boxes, velocity = boxes_from_cells(cells, np.asarray(outputs["boxes"]), spec)
    finite = np.isfinite(scores) & np.isfinite(boxes).all(axis=1) & np.isfinite(velocity).all(axis=1)
    valid = finite & (labels >= 0) & (labels < len(spec.classes))
    candidates = np.flatnonzero(valid)
    least = _least_scores(boxes[candidates], labels[candidates], spec.classes, thresholds)
    candidates = candidates[scores[candidates] >= least]
    order = candidates[np.argsort(-scores[candidates], kind="stable")]
    radii = np.array([thresholds.nms_radius[name] for name in spec.classes])
    kept = order[circle_nms(boxes[order, :2], labels[order], radii)]
    return Decoded(
        boxes[kept].astype(np.float32),
        velocity[kept].astype(np.float32),
        scores[kept].astype(np.float32),
        labels[kept].astype(np.int64),
        int(len(scores) - np.count_nonzero(valid)),
    )


def boxes_from_cells(cells: np.ndarray, channels: np.ndarray, spec: ModelSpec) -> tuple[np.ndarray, np.ndarray]:
    """(K,) flat cells and (K, BOX_CHANNELS) -> boxes (K, 7), velocity (K, 2), float64; the inverse of the targets."""
    of = {name: channels[:, i].astype(np.float64) for i, name in enumerate(BOX_CHANNELS)}
    ix, iy = np.divmod(cells, spec.grid.shape[1])
    x = spec.grid.x_min + (ix + of["dx"]) * spec.grid.step
    y = spec.grid.y_min + (iy + of["dy"]) * spec.grid.step
    length, width, height = (np.exp(of[name]) for name in ("log_l", "log_w", "log_h"))
    yaw = np.arctan2(of["sin_yaw"], of["cos_yaw"])
    return np.stack([x, y, of["z"], length, width, height, yaw], axis=1), np.stack([of["vx"], of["vy"]], axis=1)


def circle_nms(centers: np.ndarray, labels: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """(M, 2) centres by falling score -> indices kept: each removes later ones of its class within radii[label]."""
    distance = np.linalg.norm(centers[:, None] - centers[None], axis=-1)
    removes = (distance < radii[labels][:, None]) & (labels[:, None] == labels[None])
    keep = np.ones(len(centers), dtype=bool)
    for i in range(len(centers)):
        if keep[i]:
            keep[i + 1 :] &= ~removes[i, i + 1 :]
    return np.flatnonzero(keep)


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
