"""The previous BEV map, read where the current cells were."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.grid import BevGrid
from training.models.precision import full_precision

# A grid_sample coordinate far enough outside [-1, 1] for bilinear weights to vanish.
OUTSIDE = -4.0


def warp_bev(
    prev_bev: Tensor, prev_from_curr: Tensor, prev_valid: Tensor, grid: BevGrid, cell_centers: Tensor
) -> tuple[Tensor, Tensor]:
    """Read the previous BEV map where the current cells were.

    (B, C, X, Y), (B, 4, 4), (B, 1) -> warped map, seen (B, 1, X, Y). BEVDet4D's alignment: for each current cell
    centre, its place in the previous ego frame, bilinear; zero where that lies outside the map or prev_valid is 0.
    cell_centers (X*Y, 2), metres.
    """
    b = prev_bev.shape[0]
    rotation, translation = prev_from_curr[:, :2, :2], prev_from_curr[:, :2, 3]
    with full_precision(prev_bev):  # half precision is 10 cm off
        points = torch.matmul(cell_centers, rotation.transpose(1, 2)) + translation[:, None]  # (B, X*Y, 2)
    x = (points[..., 0] - grid.x_min) / (grid.x_max - grid.x_min) * 2 - 1
    y = (points[..., 1] - grid.y_min) / (grid.y_max - grid.y_min) * 2 - 1
    seen = (x.abs() < 1) & (y.abs() < 1) & (prev_valid.reshape(b, 1) > 0)
    # grid_sample's first coordinate runs along the last axis, Y.
    where = torch.where(seen[..., None], torch.stack([y, x], dim=-1), OUTSIDE).reshape(b, *grid.shape, 2)
    warped = F.grid_sample(prev_bev, where, mode="bilinear", padding_mode="zeros", align_corners=False)
    return warped, seen.reshape(b, 1, *grid.shape).to(prev_bev.dtype)


def warp_corners(
    prev_bev: Tensor, prev_from_curr: Tensor, prev_valid: Tensor, grid: BevGrid, cell_centers: Tensor
) -> tuple[Tensor, Tensor]:
    """As `warp_bev`, by the rule of BEVDet4D's released code (mmdet3d/models/detectors/bevdet.py, shift_feature).

    A cell stands for its lower corner, so that a turn goes about a point half a cell away; what lies up to a cell
    outside the earlier map fades out. For weights that were trained with it.
    """
    b, (rows, columns) = prev_bev.shape[0], grid.shape
    rotation, translation = prev_from_curr[:, :2, :2], prev_from_curr[:, :2, 3]
    low = cell_centers.new_tensor([grid.x_min, grid.y_min])
    with full_precision(prev_bev):
        points = torch.matmul(cell_centers - grid.step / 2, rotation.transpose(1, 2)) + translation[:, None]
        cells = (points - low) / grid.step
    x, y = cells[..., 0] / (rows - 1) * 2 - 1, cells[..., 1] / (columns - 1) * 2 - 1
    reached = (cells > -1).all(dim=-1) & (cells[..., 0] < rows) & (cells[..., 1] < columns)
    seen = reached & (prev_valid.reshape(b, 1) > 0)
    where = torch.where(seen[..., None], torch.stack([y, x], dim=-1), OUTSIDE).reshape(b, rows, columns, 2)
    warped = F.grid_sample(prev_bev, where, mode="bilinear", padding_mode="zeros", align_corners=True)
    return warped, seen.reshape(b, 1, rows, columns).to(prev_bev.dtype)
