"""CenterPoint's losses (Yin et al., CVPR 2021) and the auxiliary ones of the image branch and the view transform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.model_spec import BOX_CHANNELS
from training.models.detector import Prediction, task_index
from training.models.view_transform import DepthBins

VELOCITY = slice(BOX_CHANNELS.index("vx"), BOX_CHANNELS.index("vy") + 1)


@dataclass(frozen=True)
class LossConfig:
    """Weights; the defaults are CenterPoint's and BEVDepth's (Li et al., AAAI 2023).

    velocity_beta: below this many m/s of error the velocity loss is quadratic, 0 for plain L1. Most objects stand:
    plain L1, which asks for the median, can hold every velocity weight of a short run at zero (docs/results.md).
    depth_form: a key of DEPTH_LOSSES.
    """

    box: float = 0.25
    velocity: float = 0.2
    velocity_beta: float = 0.0
    depth: float = 3.0
    depth_form: str = "bce"
    semantic: float = 0.3
    foreground: float = 1.0
    iou: float = 1.0


def heatmap_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Penalty-reduced focal loss over (B, classes, X, Y), per positive cell; float32."""
    p = logits.float().sigmoid().clamp(1e-4, 1 - 1e-4)
    positive = (target == 1).float()
    loss = positive * (1 - p) ** 2 * p.log() + (1 - positive) * (1 - target) ** 4 * p**2 * (1 - p).log()
    return -loss.sum() / positive.sum().clamp(min=1)


def box_loss(regression: Tensor, cells: Tensor, boxes: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """Weighted L1 at the objects' cells, smooth for velocity: (B, 10, X, Y), (B, M), (B, M, 10), (B, M, 10)."""
    predicted = at_cells(regression, cells)
    loss = (predicted - boxes).abs()
    velocity = F.smooth_l1_loss(
        predicted[..., VELOCITY], boxes[..., VELOCITY], reduction="none", beta=config.velocity_beta
    )
    loss = torch.cat([loss[..., : VELOCITY.start], config.velocity * velocity], dim=-1)
    return config.box * (loss * mask).sum() / mask[..., 0].sum().clamp(min=1)


def at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """(B, C, X, Y), (B, M) int64 ix * Y + iy -> (B, M, C) float32."""
    return maps.float().flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


def depth_cross_entropy(logits: Tensor, depth: Tensor, camera_valid: Tensor, bins: DepthBins) -> Tensor:
    """Cross entropy over bins where LiDAR gives a depth: (B, N, D, h, w), (B, N, h, w) metres with 0 for unknown."""
    target, known = _depth_bins(depth, camera_valid, bins)
    loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(0, 1), reduction="none")
    return (loss * known.flatten(0, 1)).sum() / known.sum().clamp(min=1)


def depth_bce(logits: Tensor, depth: Tensor, camera_valid: Tensor, bins: DepthBins) -> Tensor:
    """BEVDepth's form: binary cross entropy of every bin's softmax probability, summed over bins; float32."""
    target, known = _depth_bins(depth, camera_valid, bins)
    probability = logits.float().softmax(dim=2).clamp(1e-6, 1 - 1e-6)
    hot = F.one_hot(target, bins.count).movedim(-1, 2).float()
    loss = F.binary_cross_entropy(probability, hot, reduction="none").sum(dim=2)
    return (loss * known).sum() / known.sum().clamp(min=1)


DEPTH_LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor, DepthBins], Tensor]] = {
    "cross_entropy": depth_cross_entropy,
    "bce": depth_bce,
}


def _depth_bins(depth: Tensor, camera_valid: Tensor, bins: DepthBins) -> tuple[Tensor, Tensor]:
    """Bin of each pixel, clamped, and whether it is known, inside the bins and of a live camera."""
    target = torch.div(depth - bins.start, bins.step, rounding_mode="floor").long()
    known = (depth > 0) & (target >= 0) & (target < bins.count) & (camera_valid[..., None, None] > 0)
    return target.clamp(0, bins.count - 1), known


def semantic_loss(logits: Tensor, target: Tensor, camera_valid: Tensor) -> Tensor:
    """Cross entropy over background and classes with the rare foreground weighted up: (B, N, K, h, w), (B, N, h, w)."""
    weight = torch.where(target > 0, 4.0, 1.0) * camera_valid[..., None, None]
    loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(0, 1), reduction="none")
    return (loss * weight.flatten(0, 1)).sum() / weight.sum().clamp(min=1)


def foreground_loss(logits: Tensor, target: Tensor) -> Tensor:
    """FB-BEV's region proposal (Li et al., ICCV 2023): BCE, positives weighed 2.13, plus dice; (B, 1, X, Y) both."""
    logits, target = logits.float(), target.float()
    bce = F.binary_cross_entropy_with_logits(logits, target, pos_weight=logits.new_tensor(2.13))
    p = logits.sigmoid()
    return bce + 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)


def detection_losses(
    prediction: Prediction, batch: dict[str, Tensor], detector: Any, config: LossConfig
) -> dict[str, Tensor]:
    """Every term that the prediction has something for, weighted. Heatmap and box terms are summed over tasks."""
    spec = detector.spec
    of_class = task_index(detector.tasks, spec.classes)
    heatmap, box = [], []
    tasks = torch.tensor(of_class, device=batch["labels"].device)[batch["labels"]]
    for task in range(len(detector.tasks)):
        classes = [c for c, t in enumerate(of_class) if t == task]
        heatmap.append(heatmap_loss(prediction.heatmap[:, classes], batch["heatmap"][:, classes]))
        mask = batch["mask"] * (tasks == task)[..., None]
        box.append(box_loss(prediction.regression[:, task], batch["cells"], batch["boxes"], mask, config))
    losses = {"heatmap": torch.stack(heatmap).sum(), "box": torch.stack(box).sum()}
    aux = prediction.aux
    if "depth" in aux:
        form = DEPTH_LOSSES[config.depth_form]
        losses["depth"] = config.depth * form(aux["depth"], batch["depth"], batch["camera_valid"], detector.bins)
    if "semantic" in aux:
        losses["semantic"] = config.semantic * semantic_loss(aux["semantic"], batch["semantic"], batch["camera_valid"])
    if "foreground" in aux:
        losses["foreground"] = config.foreground * foreground_loss(aux["foreground"], batch["foreground"])
    return losses
