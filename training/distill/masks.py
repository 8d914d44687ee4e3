"""Where to distil: masks over BEV cells from boxes, heatmaps, LiDAR points and camera frusta, (B, X, Y) each."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.grid import BevGrid
from training.models.footprints import cell_points, cell_steps
from training.models.view.depth_bins import DepthBins
from training.models.view.lift_splat import LiftSplat


def box_scale(index: Tensor, boxes: Tensor, grid: BevGrid) -> Tensor:
    """(B, X, Y): 1 / sqrt(the box's area in cells) inside boxes, 0 elsewhere (DistillBEV's adaptive scaling)."""
    if boxes.shape[1] == 0:
        return torch.zeros(index.shape, device=index.device)
    step_x, step_y = cell_steps(grid, (index.shape[1], index.shape[2]))
    area = (boxes[..., 3] * boxes[..., 4]).float().clamp(min=1e-6)
    scale = (step_x * step_y / area).sqrt()
    picked = scale.gather(1, index.clamp(min=0).flatten(1)).reshape(index.shape)
    return torch.where(index >= 0, picked, torch.zeros_like(picked))


def resize_map(values: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, X, Y) bool or float -> (B, *shape): the maximum of the cells that a new cell overlaps, whatever the sizes."""
    return F.adaptive_max_pool2d(values.float(), shape).to(values.dtype)


def teacher_false_positives(
    teacher_logits: Tensor, target: Tensor, shape: tuple[int, int], threshold: float = 0.1
) -> Tensor:
    """(B, shape) bool: the teacher sees an object where the ground truth has none.

    teacher_logits (B, classes, X', Y'), target (B, classes, X, Y) Gaussian heatmap: maxima over classes are compared at
    the target's resolution.
    """
    fired = teacher_logits.float().sigmoid().amax(dim=1) > threshold
    unlabelled = target.amax(dim=1) < threshold
    return resize_map(resize_map(fired, (target.shape[2], target.shape[3])) & unlabelled, shape)


def per_cell_share(mask: Tensor) -> Tensor:
    """(B, X, Y) float32: 1 / count of the sample's true cells on them, 0 elsewhere; an empty mask gives zeros."""
    count = mask.flatten(1).sum(dim=1).clamp(min=1)
    return mask.float() / count[:, None, None]


def component_share(mask: Tensor) -> Tensor:
    """(B, X, Y) float32: on true cells 1 / size of the 4-connected component that holds the cell."""
    share = np.zeros(tuple(mask.shape), dtype=np.float32)
    for i, sample in enumerate(mask.cpu().numpy().astype(np.uint8)):
        _, labels = cv2.connectedComponents(sample, connectivity=4)
        sizes = np.bincount(labels.ravel()).astype(np.float32)
        share[i] = np.where(sample > 0, 1 / sizes[labels], 0)
    return torch.from_numpy(share).to(mask.device)


def points_in_boxes(points: Tensor, boxes: Tensor, valid: Tensor, grid: BevGrid) -> Tensor:
    """(P,) bool: whether a LiDAR point (P, 4+: batch index, x, y, z) lies inside a box of its own sample.

    Points outside the grid's range are in none. Most points are far from every box: only those in cells that a box may
    reach are compared with boxes.
    """
    inside = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    ix, iy, known = _cells_of(points, grid, grid.shape)
    used = (valid > 0).any(dim=0)  # the rest is padding
    boxes, valid = boxes[:, used], valid[:, used]
    reach = _boxes_in_reach(boxes, valid, grid)
    close = torch.nonzero(known & reach.any(dim=-1)[points[:, 0].long(), ix, iy]).flatten()
    point, m = torch.nonzero(reach[points[close, 0].long(), ix[close], iy[close]], as_tuple=True)
    point = close[point]
    box = boxes[points[point, 0].long(), m].float()
    offset = points[point, 1:4] - box[:, :3]
    cos, sin = box[:, 6].cos(), box[:, 6].sin()
    along, across = offset[:, 0] * cos + offset[:, 1] * sin, offset[:, 1] * cos - offset[:, 0] * sin
    hit = (along.abs() <= box[:, 3] / 2) & (across.abs() <= box[:, 4] / 2) & (offset[:, 2].abs() <= box[:, 5] / 2)
    inside[point[hit]] = True
    return inside


def point_cells(points: Tensor, grid: BevGrid, shape: tuple[int, int], samples: int) -> Tensor:
    """(B, X, Y) bool: cells that hold at least one point of (P, 3+: batch index, x, y); points outside are left out."""
    ix, iy, known = _cells_of(points, grid, shape)
    mask = torch.zeros(samples, *shape, dtype=torch.bool, device=points.device)
    mask[points[known, 0].long(), ix[known], iy[known]] = True
    return mask


def _cells_of(points: Tensor, grid: BevGrid, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """(P, 3+: batch index, x, y) -> (P,) int64 rows and columns, (P,) bool whether inside the range; 0, 0 elsewhere."""
    step_x, step_y = cell_steps(grid, shape)
    ix = torch.floor((points[:, 1] - grid.x_min) / step_x).long()
    iy = torch.floor((points[:, 2] - grid.y_min) / step_y).long()
    known = (ix >= 0) & (ix < shape[0]) & (iy >= 0) & (iy < shape[1])
    return torch.where(known, ix, 0), torch.where(known, iy, 0), known


def _boxes_in_reach(boxes: Tensor, valid: Tensor, grid: BevGrid) -> Tensor:
    """(B, X, Y, M) bool: the valid boxes whose circumscribed circle may touch a cell of the grid."""
    offset = cell_points(grid, grid.shape, "center", boxes.device)[:, :, None] - boxes[:, None, None, :, :2].float()
    radius = torch.hypot(boxes[..., 3], boxes[..., 4]) / 2 + 0.71 * grid.step  # a cell's corner: step / sqrt(2)
    return (torch.hypot(offset[..., 0], offset[..., 1]) <= radius[:, None, None]) & (valid[:, None, None] > 0)


def view_cells(
    depth_probability: Tensor,
    img_from_ego: Tensor,
    camera_valid: Tensor,
    bins: DepthBins,
    stride: int,
    grid: BevGrid,
    shape: tuple[int, int],
    threshold: float,
) -> Tensor:
    """(B, N, X, Y) bool: cells that camera n's splat reaches, a depth bin of one of its pixels being above `threshold`.

    depth_probability (B, N, D, h, w), img_from_ego (B, N, 4, 4), camera_valid (B, N), stride: image pixels per feature.
    The frustum's geometry stands for one splat per view (BEV-LGKD's view-dependent mask).
    """
    b, n, _, h, w = depth_probability.shape
    count = shape[0] * shape[1]
    finer = dataclasses.replace(grid, step=cell_steps(grid, shape)[0])
    cells = LiftSplat(finer, bins, stride).cells(img_from_ego, camera_valid, h, w)  # (B, N, h * w, D)
    lit = depth_probability.flatten(3).transpose(2, 3) > threshold
    reached = torch.zeros(b, n, count + 1, dtype=torch.bool, device=cells.device)
    reached.scatter_(2, torch.where(lit, cells, count).flatten(2), True)
    return reached[..., :count].reshape(b, n, *shape)


def depth_known(depth: Tensor, shape: tuple[int, int]) -> Tensor:
    """(B, N, h', w') LiDAR depths in metres, 0 for unknown -> (B, N, *shape) bool: patches that hold a LiDAR return."""
    b, n = depth.shape[:2]
    known = (depth > 0).flatten(0, 1)
    return resize_map(known, shape).reshape(b, n, *shape)
