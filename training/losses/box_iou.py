"""Overlap of pairs of boxes (x, y, z, length, width, height, yaw), on tensors: what IoU branches and losses compare."""

from __future__ import annotations

import torch
from torch import Tensor

GROWN = 1 + 1e-5  # see overlap_area


def _corners(boxes: Tensor) -> Tensor:
    """(..., 7) -> (..., 4, 2), counter-clockwise."""
    signs = boxes.new_tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2
    local = signs * boxes[..., None, 3:5]
    cos, sin = boxes[..., 6:7].cos(), boxes[..., 6:7].sin()
    turned = torch.stack([local[..., 0] * cos - local[..., 1] * sin, local[..., 0] * sin + local[..., 1] * cos], -1)
    return turned + boxes[..., None, :2]


def _share_inside(start: Tensor, step: Tensor, boxes: Tensor) -> Tensor:
    """What share of each segment start + t * step, t in [0, 1], lies in the box.

    (..., 4, 2) twice, (..., 7) -> (..., 4). Liang and Barsky's clipping in the box's own axes.
    """
    cos, sin = boxes[..., 6, None].cos(), boxes[..., 6, None].sin()

    def own(v: Tensor) -> Tensor:
        return torch.stack([v[..., 0] * cos + v[..., 1] * sin, v[..., 1] * cos - v[..., 0] * sin], dim=-1)

    half, p, d = boxes[..., None, 3:5] / 2, own(start - boxes[..., None, :2]), own(step)
    d = torch.where(d.abs() < 1e-12, 1e-12, d)
    low, high = (-half - p) / d, (half - p) / d
    enter = torch.minimum(low, high).amax(dim=-1).clamp(min=0)
    leave = torch.maximum(low, high).amin(dim=-1).clamp(max=1)
    return (leave - enter).clamp(min=0)


def overlap_area(a: Tensor, b: Tensor) -> Tensor:
    """Area (m2) of the intersection of two outlines seen from above, pair by pair: (..., 7) twice -> (...), float64.

    Green's theorem: the intersection's boundary is what of a's edges lies in b and of b's edges in a, and its area half
    the integral of x dy - y dx along it. b is made larger by 1e-5 of its size, so that edges in common count once.
    """
    origin = a[..., :2].double()
    a, b = a.double(), b.double()
    a = torch.cat([a[..., :2] - origin, a[..., 2:]], dim=-1)
    b = torch.cat([b[..., :2] - origin, b[..., 2:3], b[..., 3:6] * GROWN, b[..., 6:]], dim=-1)
    area = a.new_zeros(a.shape[:-1])
    for one, other in ((a, b), (b, a)):
        start = _corners(one)
        step = start.roll(-1, dims=-2) - start
        turn = start[..., 0] * step[..., 1] - start[..., 1] * step[..., 0]
        area = area + (turn * _share_inside(start, step, other)).sum(dim=-1) / 2
    return area.clamp(min=0)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of turned boxes' volumes, pair by pair: (..., 7) twice -> (...) float32 in [0, 1]."""
    top = torch.minimum(a[..., 2] + a[..., 5] / 2, b[..., 2] + b[..., 5] / 2)
    bottom = torch.maximum(a[..., 2] - a[..., 5] / 2, b[..., 2] - b[..., 5] / 2)
    both = overlap_area(a, b) * (top - bottom).clamp(min=0)
    union = a[..., 3:6].double().prod(dim=-1) + b[..., 3:6].double().prod(dim=-1) - both
    return (both / union.clamp(min=1e-9)).clamp(0, 1).float()


def paired_diou(a: Tensor, b: Tensor) -> Tensor:
    """DIoU (Zheng et al., AAAI 2020) of volumes with yaw left out, pair by pair: (..., 6 or 7) twice -> (...).

    IoU less the squared centre distance over the squared diagonal of the box around both; in (-1, 1], differentiable.
    Without yaw as PillarNet's orientation-decoupled loss (Shi et al., ECCV 2022).
    """
    (a_low, a_high), (b_low, b_high) = ((x[..., :3] - x[..., 3:6] / 2, x[..., :3] + x[..., 3:6] / 2) for x in (a, b))
    both = (torch.minimum(a_high, b_high) - torch.maximum(a_low, b_low)).clamp(min=0).prod(dim=-1)
    union = a[..., 3:6].prod(dim=-1) + b[..., 3:6].prod(dim=-1) - both
    around = (torch.maximum(a_high, b_high) - torch.minimum(a_low, b_low)).square().sum(dim=-1)
    apart = (a[..., :3] - b[..., :3]).square().sum(dim=-1)
    return both / union.clamp(min=1e-9) - apart / around.clamp(min=1e-9)
