"""Backward projection: where points of the ego frame appear in the images, and what the maps hold there."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.grid import BevGrid
from training.models.precision import full_precision
from training.models.view.depth_bins import DepthBins

MIN_DEPTH = 0.1  # metres; what is nearer lies behind the image plane or on the lens
AWAY = -1.5  # a location, in image widths, at which every sample is zero (grid_sample coordinate -4)


def grid_sample(values: Tensor, where: Tensor) -> Tensor:
    """F.grid_sample, bilinear with zeros outside, in single precision at least: in half precision a place on a map of
    200 cells is a fifth of a cell off. -> of the values' dtype."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    return F.grid_sample(values.to(dtype), where.to(dtype), align_corners=False).to(values.dtype)


class Projected(NamedTuple):
    """Points in N images: location (B, N, Q, Z, 2) as (x, y) with the image in [0, 1]; depth (B, N, Q, Z), metres;
    visible (B, N, Q, Z) bool: in front of a valid camera and inside its image. Location is AWAY behind the camera."""

    location: Tensor
    depth: Tensor
    visible: Tensor


def anchor_points(grid: BevGrid, heights: tuple[float, ...]) -> Tensor:
    """(X * Y, Z, 3) float32: each cell's centre at each height, metres in the ego frame."""
    centers = torch.from_numpy(grid.centers().reshape(-1, 1, 2)).float().expand(-1, len(heights), -1)
    z = torch.tensor(heights).reshape(1, -1, 1).expand(len(centers), -1, -1)
    return torch.cat([centers, z], dim=2)


def project(points: Tensor, img_from_ego: Tensor, camera_valid: Tensor, image_size: tuple[int, int]) -> Projected:
    """points (Q, Z, 3) in the ego frame, img_from_ego (B, N, 4, 4) into an image of image_size (height, width) pixels,
    camera_valid (B, N)."""
    b, n = camera_valid.shape
    q, z = points.shape[:2]
    with full_precision(points):
        turned = torch.matmul(points.reshape(-1, 3), img_from_ego[..., :3, :3].transpose(2, 3))
        u, v, depth = (turned + img_from_ego[..., None, :3, 3]).reshape(b, n, q, z, 3).unbind(dim=-1)
        safe = depth.clamp(min=MIN_DEPTH)
        # Pixel 0 has its centre at 0.5 pixels from the image's edge.
        location = torch.stack([(u / safe + 0.5) / image_size[1], (v / safe + 0.5) / image_size[0]], dim=-1)
        front = (depth > MIN_DEPTH) & (camera_valid[:, :, None, None] > 0)
        inside = ((location >= 0) & (location < 1)).all(dim=-1)
        return Projected(torch.where(front[..., None], location, AWAY), depth, front & inside)


def sample_images(features: Tensor, projected: Projected) -> Tensor:
    """features (B, N, C, h, w) -> (B, Q, Z, C): bilinear samples, averaged over the cameras that see the point."""
    b, n, c = features.shape[:3]
    sampled = grid_sample(features.flatten(0, 1), projected.location.flatten(0, 1) * 2 - 1)  # (B * N, C, Q, Z)
    visible = projected.visible[:, :, None].to(features.dtype)
    total = (sampled.reshape(b, n, c, *sampled.shape[2:]) * visible).sum(dim=1)
    return (total / visible.sum(dim=1).clamp(min=1)).permute(0, 2, 3, 1)


def depth_weights(depth_probability: Tensor, projected: Projected, bins: DepthBins, hard: bool = True) -> Tensor:
    """depth_probability (B, N, D, h, w) -> w_c (B, N, Q, Z): how far each camera believes the point to be at its depth.

    FB-BEV (Li et al., ICCV 2023): sum over k of bin(depth)_k * D(u, v)_k with D read bilinearly. hard: bin() is the
    one-hot of the point's bin, the nearest bin out of range; else it is shared between the two bins whose middles
    enclose the depth.
    """
    row = (projected.depth - bins.start) / bins.step
    if hard:
        row = row.floor().clamp(0, bins.count - 1) + 0.5
    row = row.clamp(0.5, bins.count - 0.5) / bins.count  # from the first bin's middle to the last one's
    where = torch.cat([projected.location, row[..., None]], dim=-1).flatten(0, 1)[:, None] * 2 - 1  # (B*N, 1, Q, Z, 3)
    volume = depth_probability.flatten(0, 1)[:, None]  # (B * N, 1, D, h, w)
    sampled = grid_sample(volume, where)
    return sampled.reshape(projected.depth.shape)
