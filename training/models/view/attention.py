"""Deformable attention between BEV queries, images and earlier BEV maps, from grid_sample alone.

Deformable DETR's operator (Zhu et al., ICLR 2021), BEVFormer's two attentions (Li et al., ECCV 2022) and FB-BEV's depth
weighting (Li et al., ICCV 2023). Every operator exports to TensorRT's parser.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from training.models.precision import is_shape_alone
from training.models.view.projection import Projected, grid_sample


def deformable_attention(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Each query's weighted sum of bilinear samples, head by head.

    value (B, C, h, w), channels head after head; locations (B, Q, heads, P, 2) as (x, y), x along w, the map in [0, 1],
    zero outside; weights (B, Q, heads, P) -> (B, Q, C).
    """
    b, q, heads, points = weights.shape
    c, h, w = value.shape[1:]
    where = locations.transpose(1, 2).reshape(b * heads, q, points, 2) * 2 - 1
    sampled = grid_sample(value.reshape(b * heads, c // heads, h, w), where)
    weighted = sampled * weights.transpose(1, 2).reshape(b * heads, 1, q, points)
    return weighted.sum(dim=-1).reshape(b, c, q).transpose(1, 2)


def _ring(heads: int, maps: int, points: int) -> Tensor:
    """(heads, maps, points, 2) first offsets: point i of a head lies i + 1 cells away in the head's direction."""
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    direction = direction / direction.abs().amax(dim=-1, keepdim=True)
    reach = torch.arange(1, points + 1).float()
    return (direction[:, None, None] * reach[:, None]).expand(-1, maps, -1, -1).clone()


class OffsetsAndWeights(nn.Module):
    """(..., inputs) -> offsets in cells (..., heads, maps, points, 2) and logits (..., heads, maps * points)."""

    def __init__(self, inputs: int, heads: int, maps: int, points: int) -> None:
        super().__init__()
        self.sizes = (heads, maps, points)
        self.offsets = nn.Linear(inputs, heads * maps * points * 2)
        self.logits = nn.Linear(inputs, heads * maps * points)
        for linear in (self.offsets, self.logits):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        with torch.no_grad():
            self.offsets.bias.copy_(_ring(heads, maps, points).flatten())

    def forward(self, query: Tensor) -> tuple[Tensor, Tensor]:
        lead = query.shape[:-1]
        return self.offsets(query).reshape(*lead, *self.sizes, 2), self.logits(query).reshape(*lead, self.sizes[0], -1)


def _init_linear(*layers: nn.Linear | nn.Conv2d) -> None:
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


def _check_heads(channels: int, heads: int) -> None:
    if channels % heads:
        raise ValueError(f"attention wants channels divisible by heads, found {channels} channels and {heads} heads")


def _size(feature: Tensor, like: Tensor) -> Tensor:
    return torch.tensor([feature.shape[-1], feature.shape[-2]], dtype=like.dtype, device=like.device)


class SpatialCrossAttention(nn.Module):
    """BEV queries look into the images (BEVFormer, eq. 3; FB-BEV with depth weights), without residual and dropout.

        SCA(Q_p) = 1 / |V_hit| * sum over cameras i in V_hit, heights j of w_ij * DeformAttn(Q_p, P(p, i, j), F_i)

    points: samples per head and level, shared evenly between the heights (8 over 4: 2 learned offsets around each).
    V_hit: the cameras whose image holds any of the cell's heights; a query that no camera sees gets the output bias.
    """

    def __init__(self, channels: int, heads: int = 8, levels: int = 1, heights: int = 4, points: int = 8) -> None:
        super().__init__()
        _check_heads(channels, heads)
        if points % heights:
            raise ValueError(f"SpatialCrossAttention wants points in multiples of {heights} heights, found {points}")
        self.heads, self.levels, self.heights, self.points = heads, levels, heights, points
        self.value = nn.Conv2d(channels, channels, 1)
        self.where = OffsetsAndWeights(channels, heads, levels, points)
        self.output = nn.Linear(channels, channels)
        _init_linear(self.value, self.output)

    def forward(
        self, query: Tensor, features: Sequence[Tensor], projected: Projected, depth_weight: Tensor | None = None
    ) -> Tensor:
        """query (B, Q, C), one feature map (B, N, C, h, w) per level, the cells' anchors in the images (B, N, Q, Z),
        depth_weight (B, N, Q, Z) from `depth_weights` -> (B, Q, C)."""
        if len(features) != self.levels or projected.depth.shape[-1] != self.heights:
            raise ValueError(
                f"SpatialCrossAttention wants {self.levels} feature levels and {self.heights} heights per cell, "
                f"found {len(features)} and {projected.depth.shape[-1]}"
            )
        b, n, q = projected.depth.shape[:3]
        offsets, logits = self.where(query)  # (B, Q, heads, levels, points, 2), (B, Q, heads, levels * points)
        weights = logits.softmax(dim=-1).reshape(b, q, self.heads, self.levels, self.points)
        hit = projected.visible.any(dim=-1).to(query.dtype)  # (B, N, Q)
        rows = None if torch.compiler.is_exporting() or is_shape_alone(hit) else _hit_rows(hit)
        # (B, N, L, ...): every query of every camera where shapes must not depend on numbers, as in an exported graph,
        # else only those that hit the camera.
        reference = _take(projected.location, rows)
        offsets, weights = _take_query(offsets, rows, n), _take_query(weights, rows, n)
        # Point k belongs to height k % heights.
        repeats = self.points // self.heights
        reference = reference.repeat(1, 1, 1, repeats, 1)[:, :, :, None]  # (B, N, L, 1, points, 2)
        if depth_weight is not None:
            depth_weight = _take(depth_weight[..., None], rows)[..., 0].repeat(1, 1, 1, repeats)[:, :, :, None]
        total: Tensor | None = None
        for level, feature in enumerate(features):
            value = self.value(feature.flatten(0, 1))
            location = reference + offsets[..., level, :, :] / _size(feature, offsets)
            weight = weights[..., level, :]
            weight = weight if depth_weight is None else weight * depth_weight.to(weight.dtype)
            seen = deformable_attention(value, location.flatten(0, 1), weight.flatten(0, 1))
            total = seen if total is None else total + seen
        assert total is not None
        per_camera = total.reshape(b, n, -1, total.shape[-1]) * _take(hit[..., None], rows)
        if rows is None:
            summed = per_camera.sum(dim=1)
        else:
            index = rows.flatten(1, 2)[..., None].expand(-1, -1, total.shape[-1])
            summed = torch.zeros_like(query, dtype=per_camera.dtype).scatter_add(1, index, per_camera.flatten(1, 2))
        mean = summed / hit.sum(dim=1).clamp(min=1)[..., None]
        result: Tensor = self.output(mean)
        return result


def _hit_rows(hit: Tensor) -> Tensor:
    """(B, N, Q) -> (B, N, L): the queries that hit each camera first, L the largest number of hits of any camera."""
    longest = max(1, int(hit.sum(dim=-1).max()))
    return hit.argsort(dim=-1, descending=True, stable=True)[..., :longest]


def _take(per_camera: Tensor, rows: Tensor | None) -> Tensor:
    """(B, N, Q, a, ...) -> (B, N, L, a, ...)."""
    if rows is None:
        return per_camera
    index = rows.reshape(*rows.shape, *[1] * (per_camera.dim() - 3)).expand(-1, -1, -1, *per_camera.shape[3:])
    return per_camera.gather(2, index)


def _take_query(per_query: Tensor, rows: Tensor | None, n: int) -> Tensor:
    """(B, Q, ...) -> (B, N, L, ...)."""
    return _take(per_query[:, None].expand(-1, n, *per_query.shape[1:]), rows)


class TemporalSelfAttention(nn.Module):
    """BEV queries look at themselves and at the earlier BEV map (BEVFormer, eq. 5), without residual and dropout.

        TSA(Q_p, {Q, B'}) = mean over V in {Q, B'} of DeformAttn(Q_p, p, V)

    Offsets and weights come from concat(B', Q); the earlier map must be aligned to the current frame (`warp_bev`).
    """

    def __init__(self, grid: BevGrid, channels: int, heads: int = 8, points: int = 4) -> None:
        super().__init__()
        _check_heads(channels, heads)
        self.shape, self.heads, self.points = grid.shape, heads, points
        self.value = nn.Conv2d(channels, channels, 1)
        self.where = OffsetsAndWeights(2 * channels, heads, 2, points)
        self.output = nn.Linear(channels, channels)
        _init_linear(self.value, self.output)
        x, y = grid.shape
        along_y, along_x = (torch.arange(y) + 0.5) / y, (torch.arange(x) + 0.5) / x
        centers = torch.stack([along_y.repeat(x), along_x.repeat_interleave(y)], dim=-1)  # maps end in (X, Y)
        self.register_buffer("centers", centers.reshape(1, x * y, 1, 1, 2), persistent=False)

    centers: Tensor

    def forward(
        self,
        query: Tensor,
        previous: Tensor,
        valid: Tensor,
        position: Tensor | None = None,
        beside: Tensor | None = None,
    ) -> Tensor:
        """query (B, X * Y, C), previous (B, C, X, Y), valid (B, 1): 0 where no earlier map exists, which makes B' = Q;
        position (X * Y, C) is added to the query where offsets and weights are predicted; beside (B, X * Y, C): what is
        read for Q beside an earlier map, None for the query itself -> (B, X * Y, C)."""
        b, q, c = query.shape
        current = query.transpose(1, 2).reshape(b, c, *self.shape)
        known = valid.reshape(b, 1, 1, 1) > 0
        previous = torch.where(known, previous.to(query.dtype), current)
        asked = query if position is None else query + position
        offsets, logits = self.where(torch.cat([previous.flatten(2).transpose(1, 2), asked], dim=-1))
        weights = logits.reshape(b, q, self.heads, 2, self.points).softmax(dim=-1)
        size = _size(current, offsets)
        if beside is not None:
            current = torch.where(known, beside.transpose(1, 2).reshape(b, c, *self.shape), current)
        total = torch.zeros_like(query)
        for i, values in enumerate((previous, current)):
            location = self.centers + offsets[..., i, :, :] / size
            total = total + deformable_attention(self.value(values), location, weights[..., i, :])
        result: Tensor = self.output(total / 2)
        return result
