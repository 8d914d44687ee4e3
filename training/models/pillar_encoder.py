"""Dynamic pillars: a cloud of points becomes a BEV map, one vector for each column of the grid that holds a point."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from training.models.precision import full_precision

# The papers' -5..3 m in nuScenes' LiDAR frame, which is 1.84 m above the ego frame.
Z_RANGE = (-3.16, 4.84)

RowNorm = nn.BatchNorm1d | nn.SyncBatchNorm  # training on several GPUs converts the one to the other


def norm_rows(norm: RowNorm, rows: Tensor) -> Tensor:
    """Batch norm of (P, C) rows; with fewer than two rows there are no statistics, so the running ones are used.

    A norm that was converted to nn.SyncBatchNorm takes the rows of all processes, as many as each of them has.
    """
    if norm.training and _of_all(norm) and (count := _count(norm, rows)) > 1:
        rows = rows.float()
        centre = _total(norm, rows.sum(dim=0)) / count
        spread = _total(norm, (rows - centre).square().sum(dim=0)) / count
        _update_statistics(norm, centre.detach(), spread.detach() * (count / (count - 1)))
        return (rows - centre) * (norm.weight * torch.rsqrt(spread + norm.eps)) + norm.bias
    training = norm.training and len(rows) > 1
    mean, var, momentum = norm.running_mean, norm.running_var, norm.momentum
    if training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return F.batch_norm(rows, mean, var, norm.weight, norm.bias, training, momentum or 0.0, norm.eps)


def norm_linear(linear: nn.Linear, norm: RowNorm, rows: Tensor) -> tuple[Tensor, Tensor]:
    """norm_rows(norm, linear(rows)) for a `linear` without bias as (P, out) plus (out,): one matrix product, and a bias
    that a maximum over rows lets pass.

    Mean and variance of a linear map follow from mean and covariance of its input, so that the norm becomes part of the
    map's weights: no pass over P x out, forward or backward, but the product.
    """
    weight, mean, var = linear.weight, norm.running_mean, norm.running_var
    if norm.training and (count := _count(norm, rows)) > 1:
        centre = _total(norm, rows.sum(dim=0)) / count
        offset = rows - centre
        covariance = _total(norm, offset.t() @ offset) / count
        mean, var = weight @ centre, ((weight @ covariance) * weight).sum(dim=1)
        _update_statistics(norm, mean.detach(), var.detach() * (count / (count - 1)))
    assert mean is not None and var is not None
    scale = norm.weight * torch.rsqrt(var + norm.eps)
    return rows @ (scale[:, None] * weight).t(), norm.bias - scale * mean


class _SumOfAll(torch.autograd.Function):
    """The sum over all processes; each one's share gets the gradients of all of them."""

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        total = share.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total: Tensor = _SumOfAll.apply(gradient)
        return total


def _of_all(norm: RowNorm) -> bool:
    """Whether the statistics of a batch are those of all processes."""
    return isinstance(norm, nn.SyncBatchNorm) and dist.is_available() and dist.is_initialized()


def _total(norm: RowNorm, share: Tensor) -> Tensor:
    total: Tensor = _SumOfAll.apply(share) if _of_all(norm) else share
    return total


def _count(norm: RowNorm, rows: Tensor) -> int:
    """How many rows the statistics come from; a GPU is only waited for where there are several processes."""
    return int(_total(norm, torch.tensor(len(rows), device=rows.device))) if _of_all(norm) else len(rows)


def _update_statistics(norm: RowNorm, mean: Tensor, unbiased_var: Tensor) -> None:
    """As BatchNorm1d does in training."""
    momentum = norm.momentum or 0.0
    if norm.running_mean is not None and norm.running_var is not None:
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
        norm.running_var.lerp_(unbiased_var.to(norm.running_var.dtype), momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)


def segment_max(rows: Tensor, starts: Tensor) -> Tensor:
    """(P, C) rows that lie segment by segment, first row of each (S,) -> (S, C), the largest of each segment.

    Its gradient goes to the largest rows alone; that of a scatter with `amax` compares and divides all of them.
    """
    index = torch.arange(len(rows), device=rows.device)
    highest: Tensor = F.embedding_bag(index, rows, starts, mode="max")
    return highest


def group_mean(rows: Tensor, group: Tensor, groups: int) -> Tensor:
    """(P, C) rows and their group (P,) -> (groups, C), the mean of each group; every group has a row."""
    count = rows.new_zeros(groups).index_add(0, group, rows.new_ones(len(rows)))
    return rows.new_zeros(groups, rows.shape[1]).index_add(0, group, rows) / count.clamp(min=1.0)[:, None]


class PointNetLayer(nn.Module):
    """Linear + batch norm + ReLU on points, then the maximum of each pillar (PointPillars, Lang et al., CVPR 2019).

    A layer that is not the last gives half of its width to the point and half to its pillar's maximum.
    """

    def __init__(self, in_channels: int, channels: int, last: bool) -> None:
        super().__init__()
        if not last and channels % 2:
            raise ValueError(f"PointNetLayer: a layer before the last needs an even width, found {channels}")
        width = channels if last else channels // 2
        self.last = last
        self.linear = nn.Linear(in_channels, width, bias=False)
        self.norm = nn.BatchNorm1d(width, eps=1e-3, momentum=0.01)

    def forward(self, points: Tensor, pillar: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
        """points (P, in) pillar by pillar, pillar (P,), first point of each pillar (S,) -> points for the next layer
        (P, channels), of the last one without meaning, and pillar maxima (S, width)."""
        x, bias = norm_linear(self.linear, self.norm, points)
        highest = (segment_max(x, starts) + bias).relu()  # after the maximum: fewer rows
        return (x if self.last else torch.cat([(x + bias).relu(), highest[pillar]], dim=1)), highest


class PillarEncoder(nn.Module):
    """Points -> BEV map and the mask of its non-empty cells. No limit on points per pillar or on pillars.

    point_channels counts x, y, z and what follows them (the batch index is not one of them). A point is decorated with
    its offset from its pillar's mean (3) and from its pillar's centre (3; z from the middle of `z_range`, ego frame).
    channels: width of each PointNet layer, e.g. (64,), (64, 64) for CenterPoint's official two, (32,) for PillarNet.
    room: for weights that were trained with det3d's hard pillars: the first `room` points of a pillar are taken, and
    where there are fewer the empty places are rows of zeros that take part in every maximum (a zero through linear and
    norm is no zero); 0: all points, no empty places. det3d/models/readers/pillar_encoder.py of CenterPoint.
    Sources: CenterPoint (Yin et al., CVPR 2021), PillarNet's DynamicPillarVFE (Shi et al., ECCV 2022).
    """

    def __init__(
        self,
        point_channels: int,
        grid: BevGrid,
        channels: tuple[int, ...] = (64,),
        z_range: tuple[float, float] = Z_RANGE,
        room: int = 0,
    ) -> None:
        super().__init__()
        if point_channels < 3 or not channels:
            raise ValueError(f"PillarEncoder wants x, y, z and >= 1 layer, found {point_channels} and {channels}")
        if room < 0:
            raise ValueError(f"PillarEncoder: room must be 0 (any number of points) or more, found {room}")
        self.grid, self.z_range, self.point_channels, self.out_channels = grid, z_range, point_channels, channels[-1]
        self.room = room
        widths = (point_channels + 6, *channels)
        self.layers = nn.ModuleList(
            PointNetLayer(a, b, last=i == len(channels) - 1) for i, (a, b) in enumerate(zip(widths, channels))
        )

    def forward(self, points: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """points (P, 1 + point_channels) float32: batch index, x, y, z (metres, ego frame), ...

        -> map (B, C, X, Y), zero in empty cells, and mask (B, 1, X, Y) float32, 1 where a cell has points.
        Points outside grid or z range are dropped; P may be 0.
        """
        if points.ndim != 2 or points.shape[1] != 1 + self.point_channels:
            raise ValueError(
                f"PillarEncoder wants points (P, {1 + self.point_channels}) with the batch index in column 0, "
                f"found {tuple(points.shape)}"
            )
        rows, cell = self.inside(points, batch_size)
        cell, order = torch.sort(cell, stable=self.room > 0)  # the first points are those that come first
        rows = rows[order]
        if self.room:
            fits = torch.arange(len(cell), device=cell.device) - torch.searchsorted(cell, cell) < self.room
            rows, cell = rows[fits], cell[fits]
        occupied, pillar, counts = torch.unique_consecutive(cell, return_inverse=True, return_counts=True)
        starts = counts.cumsum(0) - counts
        x, y = self.grid.shape
        low = points.new_tensor([self.grid.x_min, self.grid.y_min])
        index = torch.stack([occupied // y % x, occupied % y], dim=1)
        middle = low + (index + 0.5) * self.grid.step
        middle = F.pad(middle, (0, 1), value=sum(self.z_range) / 2)
        xyz = rows[:, 1:4]
        mean = group_mean(xyz, pillar, len(occupied))
        features = torch.cat([rows[:, 1:], xyz - mean[pillar], xyz - middle[pillar]], dim=1)
        if self.room:
            lacking = (counts < self.room).nonzero().flatten()
            features = torch.cat([features, features.new_zeros(len(lacking), features.shape[1])])
            pillar, order = torch.sort(torch.cat([pillar, lacking]), stable=True)
            features, counts = features[order], counts + (counts < self.room)
            starts = counts.cumsum(0) - counts
        highest = features
        # A coordinate of 50 m in bfloat16 is a quarter of a metre off.
        with full_precision(points):
            for layer in self.layers:
                features, highest = layer(features, pillar, starts)
        canvas = highest.new_zeros(batch_size * x * y, self.out_channels).index_copy(0, occupied, highest)
        mask = points.new_zeros(batch_size * x * y, 1).index_fill(0, occupied, 1.0)
        shape = (batch_size, x, y, -1)
        return canvas.reshape(shape).permute(0, 3, 1, 2), mask.reshape(shape).permute(0, 3, 1, 2)

    def inside(self, points: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """The points within grid and z range, and their flat cell (b * X + ix) * Y + iy, by floor."""
        x, y = self.grid.shape
        # In float64 as BevGrid.cells, so that a point on a cell's edge lands in the same cell here and there.
        ix = torch.floor((points[:, 1].double() - self.grid.x_min) / self.grid.step)
        iy = torch.floor((points[:, 2].double() - self.grid.y_min) / self.grid.step)
        keep = (ix >= 0) & (ix < x) & (iy >= 0) & (iy < y)  # NaN is outside
        keep &= (points[:, 3] >= self.z_range[0]) & (points[:, 3] < self.z_range[1])
        rows, ix, iy = points[keep], ix[keep].long(), iy[keep].long()
        batch = rows[:, 0].long()
        if len(batch) and (int(batch.min()) < 0 or int(batch.max()) >= batch_size):
            raise ValueError(
                f"PillarEncoder: batch index {int(batch.min())}..{int(batch.max())} for {batch_size} items"
            )
        return rows, (batch * x + ix) * y + iy
