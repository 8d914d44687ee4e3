"""What the network is asked to predict: CenterPoint's heatmaps and boxes in BEV, depth and class in the images."""

from __future__ import annotations

from typing import TypeVar

import cv2
import numpy as np
from torch import Tensor

from bev_perception.geometry import box_corners, project
from bev_perception.grid import BevGrid

MAX_OBJECTS = 500
Size = TypeVar("Size", float, Tensor)


def gaussian_radius(height: Size, width: Size, min_overlap: float = 0.1) -> Size:
    """CornerNet's radius in cells for a box of height x width cells; keeps its historical division by 2 instead of 2a,
    which all reference numbers use (CenterPoint, det3d/core/utils/center_utils.py).

    With that division the least of CornerNet's three radii is always that of a box grown on all sides: it is at most
    2 sqrt(o (1 - o) height width), thus at most (height + width) / 2, and the other two are at least that.
    """
    o = min_overlap
    b, c = -2 * o * (height + width), (o - 1) * width * height
    return (b + (b * b - 16 * o * c) ** 0.5) / 2


def draw_gaussian(heatmap: np.ndarray, cell: tuple[int, int], radius: int) -> None:
    """Merge a Gaussian with sigma (2 r + 1) / 6 into (X, Y) `heatmap` at `cell` by maximum, cut at the map's edge."""
    offsets = np.arange(-radius, radius + 1)
    sigma = (2 * radius + 1) / 6
    patch = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * sigma**2)).astype(np.float32)
    x, y = cell
    x0, x1 = max(0, x - radius), min(heatmap.shape[0], x + radius + 1)
    y0, y1 = max(0, y - radius), min(heatmap.shape[1], y + radius + 1)
    cut = patch[x0 - x + radius : x1 - x + radius, y0 - y + radius : y1 - y + radius]
    np.maximum(heatmap[x0:x1, y0:y1], cut, out=heatmap[x0:x1, y0:y1])


def bev_targets(
    boxes: np.ndarray, velocity: np.ndarray, labels: np.ndarray, grid: BevGrid, classes: int
) -> dict[str, np.ndarray]:
    """(M, 7) boxes in the ego frame, (M, 2) m/s, (M,) labels -> heatmap (classes, X, Y) float32, and for up to
    MAX_OBJECTS objects inside the grid cells (int64, ix * Y + iy), labels (int64), boxes (10, BOX_CHANNELS), mask (10;
    0 for padding and for unknown velocity), gt_boxes (7; the boxes themselves) and gt_valid (0 for padding).
    """
    heatmap = np.zeros((classes, *grid.shape), dtype=np.float32)
    cells = np.zeros(MAX_OBJECTS, dtype=np.int64)
    targets = np.zeros((MAX_OBJECTS, 10), dtype=np.float32)
    mask = np.zeros((MAX_OBJECTS, 10), dtype=np.float32)
    classes_of = np.zeros(MAX_OBJECTS, dtype=np.int64)
    gt_boxes = np.zeros((MAX_OBJECTS, 7), dtype=np.float32)
    where, inside = grid.cells(boxes[:, :2])
    fraction = grid.fractional_cells(boxes[:, :2]) - where
    for i, k in enumerate(np.flatnonzero(inside)[:MAX_OBJECTS]):
        length, width, height, yaw = boxes[k, 3:7]
        radius = max(2, int(gaussian_radius(width / grid.step, length / grid.step)))
        draw_gaussian(heatmap[labels[k]], (int(where[k, 0]), int(where[k, 1])), radius)
        cells[i] = where[k, 0] * grid.shape[1] + where[k, 1]
        classes_of[i], gt_boxes[i] = labels[k], boxes[k]
        known = np.isfinite(velocity[k]).all()
        targets[i] = (
            *fraction[k], boxes[k, 2], np.log(length), np.log(width), np.log(height), np.sin(yaw), np.cos(yaw),
            *(velocity[k] if known else (0.0, 0.0)),
        )  # fmt: skip
        mask[i] = 1
        mask[i, 8:] = float(known)
    return {
        "heatmap": heatmap,
        "cells": cells,
        "labels": classes_of,
        "boxes": targets,
        "mask": mask,
        "gt_boxes": gt_boxes,
        "gt_valid": mask[:, 0].copy(),
    }


def depth_target(points_ego: np.ndarray, img_from_ego: np.ndarray, size: tuple[int, int], stride: int) -> np.ndarray:
    """LiDAR points (P, 3) in the ego frame -> (H / stride, W / stride) float32: the smallest depth (m) in each patch, 0
    where no point falls (BEVDepth's supervision)."""
    h, w = size
    pixels, depth = project(img_from_ego, points_ego)
    u, v = np.floor((pixels[:, 0] + 0.5) / stride), np.floor((pixels[:, 1] + 0.5) / stride)
    ok = (depth > 0.5) & (u >= 0) & (u < w // stride) & (v >= 0) & (v < h // stride)
    target = np.full((h // stride, w // stride), np.inf, dtype=np.float32)
    np.minimum.at(target, (v[ok].astype(np.int64), u[ok].astype(np.int64)), depth[ok].astype(np.float32))
    target[np.isinf(target)] = 0
    return target


def semantic_target(
    boxes: np.ndarray, labels: np.ndarray, img_from_ego: np.ndarray, size: tuple[int, int], stride: int
) -> np.ndarray:
    """(M, 7) boxes -> (H / stride, W / stride) int64: 0 background, 1 + label where a box's outline covers the patch.

    The nearest box is on top. Occlusion by the surroundings is not known here: a weak target, good for the image
    branch's start.
    """
    h, w = size[0] // stride, size[1] // stride
    canvas = np.zeros((h, w), dtype=np.uint8)
    pixels, depth = project(img_from_ego, box_corners(boxes).reshape(-1, 3))
    pixels, depth = pixels.reshape(-1, 8, 2), depth.reshape(-1, 8)
    for k in np.argsort(-depth.mean(axis=1)):
        if depth[k].min() > 0.5:
            hull = cv2.convexHull(((pixels[k] + 0.5) / stride - 0.5).astype(np.float32).clip(-4 * w, 4 * w))
            cv2.fillConvexPoly(canvas, np.round(hull).astype(np.int32), (int(1 + labels[k]),))
    return canvas.astype(np.int64)
