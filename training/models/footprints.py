"""Boxes seen from above, as cells of a BEV map.

Maps are (B, X, Y) over the grid's range; their cell size follows from their shape, so one grid serves every stride.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bev_perception.grid import BevGrid

CELL_POINTS = {"corner": 0.0, "center": 0.5}


def cell_steps(grid: BevGrid, shape: tuple[int, int]) -> tuple[float, float]:
    """Metres per cell along x and y of a map of `shape` cells over the grid's range."""
    return (grid.x_max - grid.x_min) / shape[0], (grid.y_max - grid.y_min) / shape[1]


def cell_points(grid: BevGrid, shape: tuple[int, int], point: str, device: torch.device) -> Tensor:
    """(X, Y, 2) metres: each cell's "center" or lower "corner". Raises ValueError for another `point`."""
    if point not in CELL_POINTS:
        raise ValueError(f"a cell's point must be one of {sorted(CELL_POINTS)}, found {point!r}")
    step_x, step_y = cell_steps(grid, shape)
    xs = grid.x_min + (torch.arange(shape[0], device=device) + CELL_POINTS[point]) * step_x
    ys = grid.y_min + (torch.arange(shape[1], device=device) + CELL_POINTS[point]) * step_y
    return torch.stack(torch.meshgrid(xs, ys, indexing="ij"), dim=-1)


def box_index(boxes: Tensor, valid: Tensor, grid: BevGrid, shape: tuple[int, int], point: str = "center") -> Tensor:
    """(B, X, Y) int64: the first box whose outline contains the cell's point, -1 for none.

    boxes (B, M, 7) x, y, z, length, width, height, yaw in metres and radians, valid (B, M). Height plays no part.
    """
    points = cell_points(grid, shape, point, boxes.device)
    index = torch.full((boxes.shape[0], *shape), -1, dtype=torch.int64, device=boxes.device)
    used = torch.nonzero((valid > 0).any(dim=0)).flatten()  # the rest is padding
    if len(used) == 0:
        return index
    rank = torch.arange(len(used), 0, -1, dtype=torch.int16, device=boxes.device)[:, None, None]  # highest: the first
    boxes_by_rank = torch.cat([used.new_full((1,), -1), used.flip(0)])
    for row, box, real in zip(index, boxes[:, used].float(), valid[:, used] > 0, strict=True):
        x, y = points[:, 0, 0] - box[:, :1], points[0, :, 1] - box[:, 1:2]  # (M, X), (M, Y)
        cos, sin = box[:, 6:].cos(), box[:, 6:].sin()
        along = (x * cos)[:, :, None] + (y * sin)[:, None]
        across = (y * cos)[:, None] - (x * sin)[:, :, None]
        length, width = box[:, 3, None, None], box[:, 4, None, None]
        inside = (along.abs() <= length / 2) & (across.abs() <= width / 2) & real[:, None, None]
        row.copy_(boxes_by_rank[(inside * rank).amax(dim=0).long()])
    return index


def footprints(boxes: Tensor, valid: Tensor, grid: BevGrid, shape: tuple[int, int], point: str = "center") -> Tensor:
    """(B, X, Y) bool: cells whose point lies inside the outline of a valid box; arguments as `box_index`."""
    return box_index(boxes, valid, grid, shape, point) >= 0
