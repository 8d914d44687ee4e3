"""Places in metres and maps over the grid's range: maps read at places, Gaussians drawn at boxes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.grid import BevGrid
from training.data.targets import gaussian_radius
from training.models.footprints import cell_steps


def read_at(feature: Tensor, places: Tensor, grid: BevGrid) -> Tensor:
    """(B, C, X, Y) read at (B, M, P, 2) metres -> (B, M, P, C) float32, bilinear, zero outside the map."""
    low = places.new_tensor([grid.x_min, grid.y_min])
    extent = places.new_tensor([grid.x_max, grid.y_max]) - low
    where = ((places - low) / extent * 2 - 1).float().flip(-1)  # grid_sample's first is along the last axis
    sampled = F.grid_sample(feature.float(), where, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.permute(0, 2, 3, 1)


def gaussians(
    boxes: Tensor, valid: Tensor, grid: BevGrid, shape: tuple[int, int], overlap: float, least_radius: int
) -> Tensor:
    """(B, M, 7) boxes, (B, M) -> (B, *shape) float32: the highest of all boxes' Gaussians, whatever their class, each
    as `training.data.targets` draws them, 1 in the cell of the box's centre.

    overlap: least IoU of a box whose corners may lie a radius off; least_radius: in cells, 0 for the one cell alone.
    Boxes with their centre outside the grid have none.
    """
    used = (valid > 0).any(dim=0)  # the rest is padding
    boxes, valid = boxes[:, used].float(), valid[:, used] > 0
    low, step = boxes.new_tensor([grid.x_min, grid.y_min]), boxes.new_tensor(cell_steps(grid, shape))
    cell = torch.floor((boxes[..., :2] - low) / step)
    inside = valid & ((cell >= 0) & (cell < cell.new_tensor(shape))).all(dim=-1)
    size = boxes[..., 3:5] / step.mean()  # cells are square, or nearly so: boxes are turned
    radius = gaussian_radius(size[..., 1], size[..., 0], overlap).floor().clamp(min=least_radius)
    sigma = (2 * radius + 1) / 6
    sides = []
    for axis, length in enumerate(shape):
        offset = torch.arange(length, device=boxes.device) - cell[..., axis, None]
        near = (offset.abs() <= radius[..., None]) & inside[..., None]
        sides.append(torch.where(near, torch.exp(-(offset**2) / (2 * sigma**2)[..., None]), 0.0))
    drawn = boxes.new_zeros(len(boxes), *shape)
    for along_x, along_y in zip(*(side.unbind(dim=1) for side in sides), strict=True):
        drawn = torch.maximum(drawn, along_x[:, :, None] * along_y[:, None])
    return drawn
