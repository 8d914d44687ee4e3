"""Radar as each camera sees it: a BEV map read into the camera's (depth, column) plane."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from training.models.center_head import conv_bn_relu
from training.models.precision import full_precision
from training.models.view.depth_bins import DepthBins
from training.models.view.lift_splat import inverse_3x3
from training.models.view.warp import OUTSIDE

MIN_TILT = 1e-6  # of the image's vertical direction against the ground, in metres of height per pixel and metre


def plane_points(img_from_ego: Tensor, columns: Tensor, depths: Tensor, height: float) -> Tensor:
    """Where a camera's columns are at each depth: (B, N, 4, 4), (w,) pixels, (D,) m -> x, y in the ego frame
    (B, N, D, w, 2).

    Of all points of image column u at depth d the one at `height` m above the ego frame's origin. With [A | t] the
    upper rows of img_from_ego, p = A^-1 ([u d, s, d] - t), and p_z = height gives s = v d.
    """
    ego_from_pixel = inverse_3x3(img_from_ego[..., :3, :3])
    origin = -torch.matmul(ego_from_pixel, img_from_ego[..., :3, 3:])[..., None]  # (B, N, 3, 1, 1)
    along_u, along_v, forward = (ego_from_pixel[..., i][..., None, None] for i in range(3))
    points = origin + depths[:, None] * (along_u * columns + forward)  # v d = 0
    tilt = along_v[..., 2:, :, :]
    tilt = torch.where(tilt.abs() < MIN_TILT, MIN_TILT, tilt)
    points = points + along_v * ((height - points[..., 2:, :, :]) / tilt)
    return points[..., :2, :, :].permute(0, 1, 3, 4, 2)


class RadarFrustum(nn.Module):
    """Radar BEV map (B, C, X, Y) -> logits of radar occupancy (B, N, 1, D, w) on every camera's plane.

    The plane is read at `reference_height` (bilinear, zero outside the grid and for cameras that are off) and passes
    `layers` 3x3 convolutions. Occupancy starts at 0.01.
    """

    def __init__(
        self, grid: BevGrid, bins: DepthBins, channels: int, hidden: int, layers: int, reference_height: float = 0.8
    ) -> None:
        super().__init__()
        self.grid, self.bins, self.height = grid, bins, reference_height
        widths = [channels] + [hidden] * layers
        self.layers = nn.Sequential(*(conv_bn_relu(a, b) for a, b in pairwise(widths)))
        self.occupancy = nn.Conv2d(widths[-1], 1, 1)
        assert self.occupancy.bias is not None
        nn.init.constant_(self.occupancy.bias, math.log(0.01 / 0.99))

    def forward(
        self, radar: Tensor, img_from_ego: Tensor, camera_valid: Tensor, columns: int, image_width: int
    ) -> Tensor:
        planes = self.read(radar, img_from_ego, camera_valid, columns, image_width)
        logits = self.occupancy(self.layers(planes.flatten(0, 1)))
        return logits.unflatten(0, camera_valid.shape)

    def read(self, radar: Tensor, img_from_ego: Tensor, camera_valid: Tensor, columns: int, image_width: int) -> Tensor:
        """-> (B, N, C, D, w): what the map holds where each of `columns` image columns is at the middle of each bin."""
        cameras, device, grid = camera_valid.shape[1], radar.device, self.grid
        with full_precision(radar):
            stride = image_width / columns
            u = (torch.arange(columns, device=device) + 0.5) * stride - 0.5
            depths = self.bins.start + self.bins.step * (torch.arange(self.bins.count, device=device) + 0.5)
            points = plane_points(img_from_ego.float(), u, depths, self.height)
            along_x = (points[..., 0] - grid.x_min) / (grid.x_max - grid.x_min) * 2 - 1
            along_y = (points[..., 1] - grid.y_min) / (grid.y_max - grid.y_min) * 2 - 1
            inside = (along_x.abs() < 1) & (along_y.abs() < 1) & (camera_valid[..., None, None] > 0)
            where = torch.where(inside[..., None], torch.stack([along_y, along_x], dim=-1), OUTSIDE)
        # All cameras of a frame in one call: (B, N * D, w).
        found = F.grid_sample(radar.float(), where.flatten(1, 2), padding_mode="zeros", align_corners=False)
        return found.unflatten(2, (cameras, self.bins.count)).transpose(1, 2).to(radar.dtype)
