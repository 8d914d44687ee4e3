"""CenterPoint's losses (Yin et al., CVPR 2021) and the image branch's auxiliary ones."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.model_spec import BOX_CHANNELS
from training.models.view_transform import DepthBins

# CenterPoint weighs velocity 0.2, BEVDepth 0.5, over twenty epochs and more; our runs are short (docs/results.md).
VELOCITY_WEIGHT = 1.0
BOX_WEIGHTS = torch.tensor([VELOCITY_WEIGHT if name in ("vx", "vy") else 1.0 for name in BOX_CHANNELS])
# Below this many m/s of error the velocity loss is quadratic. Most objects stand: plain L1, which asks for the median,
# holds every velocity weight at zero, where no layer learns to tell movers apart (docs/results.md, "Velocity").
VELOCITY_BETA = 5.0
VELOCITY = slice(BOX_CHANNELS.index("vx"), BOX_CHANNELS.index("vy") + 1)


def heatmap_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Penalty-reduced focal loss over (B, classes, X, Y), per positive cell; float32."""
    p = logits.float().sigmoid().clamp(1e-4, 1 - 1e-4)
    positive = (target == 1).float()
    loss = positive * (1 - p) ** 2 * p.log() + (1 - positive) * (1 - target) ** 4 * p**2 * (1 - p).log()
    return -loss.sum() / positive.sum().clamp(min=1)


def box_loss(regression: Tensor, cells: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
    """0.25 x weighted L1 at the objects' cells, smooth for velocity: (B, 10, X, Y), (B, M), (B, M, 10), (B, M, 10)."""
    predicted = (
        regression.float().flatten(2).gather(2, cells[:, None].expand(-1, regression.shape[1], -1)).transpose(1, 2)
    )
    loss = (predicted - boxes).abs()
    loss[..., VELOCITY] = F.smooth_l1_loss(
        predicted[..., VELOCITY], boxes[..., VELOCITY], reduction="none", beta=VELOCITY_BETA
    )
    return 0.25 * (loss * mask * BOX_WEIGHTS.to(boxes.device)).sum() / mask[..., 0].sum().clamp(min=1)


def depth_loss(logits: Tensor, depth: Tensor, camera_valid: Tensor, bins: DepthBins) -> Tensor:
    """Cross entropy over bins where LiDAR gives a depth: (B, N, D, h, w), (B, N, h, w) metres with 0 for unknown."""
    target = torch.div(depth - bins.start, bins.step, rounding_mode="floor").long()
    known = (depth > 0) & (target >= 0) & (target < bins.count) & (camera_valid[..., None, None] > 0)
    loss = F.cross_entropy(
        logits.float().flatten(0, 1), target.clamp(0, bins.count - 1).flatten(0, 1), reduction="none"
    )
    return (loss * known.flatten(0, 1)).sum() / known.sum().clamp(min=1)


def semantic_loss(logits: Tensor, target: Tensor, camera_valid: Tensor) -> Tensor:
    """Cross entropy over background and classes with the rare foreground weighted up: (B, N, K, h, w), (B, N, h, w)."""
    weight = torch.where(target > 0, 4.0, 1.0) * camera_valid[..., None, None]
    loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(0, 1), reduction="none")
    return (loss * weight.flatten(0, 1)).sum() / weight.sum().clamp(min=1)
