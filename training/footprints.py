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
    used = torch.nonzero((valid > 0).any(dim=0)).flatten().tolist()
    # From the last box to the first, so that the first one stays; memory is that of one box.
    for m in reversed(used):
        box = boxes[:, m, :, None, None].float()
        along_x, along_y = points[..., 0] - box[:, 0], points[..., 1] - box[:, 1]
        cos, sin = box[:, 6].cos(), box[:, 6].sin()
        along, across = along_x * cos + along_y * sin, along_y * cos - along_x * sin
        inside = (along.abs() <= box[:, 3] / 2) & (across.abs() <= box[:, 4] / 2) & (valid[:, m, None, None] > 0)
        index = torch.where(inside, m, index)
    return index


def footprints(boxes: Tensor, valid: Tensor, grid: BevGrid, shape: tuple[int, int], point: str = "center") -> Tensor:
    """(B, X, Y) bool: cells whose point lies inside the outline of a valid box; arguments as `box_index`."""
    return box_index(boxes, valid, grid, shape, point) >= 0
