"""DETR's set losses as BEVFormer uses them (Li et al., ECCV 2022): Hungarian matching, focal and L1 losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bev_perception.grid import BevGrid
from training.processes import count_of_all

ALPHA, GAMMA = 0.25, 2.0  # focal loss (Lin et al., ICCV 2017)


@dataclass(frozen=True)
class QueryLossConfig:
    """BEVFormer's weights: of the focal loss, of the L1 loss, of velocity within it; the matching uses the same but no
    velocity."""

    classify: float = 2.0
    box: float = 0.25
    velocity: float = 0.2


def focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Sigmoid focal loss, elementwise; target 0 or 1, float32."""
    p = logits.sigmoid()
    positive = -ALPHA * (1 - p) ** GAMMA * torch.nn.functional.logsigmoid(logits)
    negative = -(1 - ALPHA) * p**GAMMA * torch.nn.functional.logsigmoid(-logits)
    return target * positive + (1 - target) * negative


@torch.no_grad()
def match(
    logits: Tensor, boxes: Tensor, labels: Tensor, targets: Tensor, config: QueryLossConfig
) -> tuple[Tensor, Tensor]:
    """Queries and objects of one item that belong together at the least cost: indices (K,) into each, K = min(Q, M).

    logits (Q, classes), boxes (Q, 10), labels (M,), targets (M, 10), metres as in `QueryHead`.
    Raises FloatingPointError when a cost is not finite.
    """
    logits, boxes = logits.float(), boxes.float()
    ones = torch.ones_like(logits)
    gain = focal_loss(logits, ones) - focal_loss(logits, ones - 1)  # what saying yes costs, less what saying no does
    cost = config.classify * gain[:, labels] + config.box * torch.cdist(boxes[:, :8], targets[:, :8], p=1)
    if not torch.isfinite(cost).all():
        raise FloatingPointError("a query's score or box is not finite: train anew with a lower lr or clip_norm")
    rows, columns = linear_sum_assignment(cost.cpu().numpy())
    return torch.from_numpy(rows).to(logits.device), torch.from_numpy(columns).to(logits.device)


def targets_of(batch: dict[str, Tensor], grid: BevGrid) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per item labels (M,), boxes (M, 10) with centres in metres and weights (M, 10); from the trainer's batch keys
    cells, labels, boxes (BOX_CHANNELS) and mask (0 for padding and unknown velocity)."""
    found = []
    for cells, labels, boxes, mask in zip(batch["cells"], batch["labels"], batch["boxes"], batch["mask"]):
        real = mask[:, 0] > 0
        cells, boxes = cells[real], boxes[real].float()
        corner = torch.stack([torch.div(cells, grid.shape[1], rounding_mode="floor"), cells % grid.shape[1]], dim=1)
        low = boxes.new_tensor([grid.x_min, grid.y_min])
        center = low + (corner + boxes[:, :2]) * grid.step
        found.append((labels[real], torch.cat([center, boxes[:, 2:]], dim=1), mask[real].float()))
    return found


def query_losses(
    logits: Tensor, boxes: Tensor, batch: dict[str, Tensor], grid: BevGrid, config: QueryLossConfig
) -> dict[str, Tensor]:
    """Sum over decoder layers, each matched on its own: logits (L, B, Q, classes), boxes (L, B, Q, 10) of `QueryHead`.

    Both terms are divided by the number of objects in the batch (at least 1), as BEVFormer does.
    """
    targets = targets_of(batch, grid)
    objects = count_of_all(boxes.new_tensor(float(sum(len(labels) for labels, _, _ in targets))))
    weight = boxes.new_tensor([1.0] * 8 + [config.velocity] * 2)
    classify, box = logits.float().sum() * 0, boxes.sum() * 0
    for layer_logits, layer_boxes in zip(logits.float(), boxes.float()):
        wanted = torch.zeros_like(layer_logits)
        for i, (labels, truth, known) in enumerate(targets):
            if not len(labels):
                continue
            query, which = match(layer_logits[i], layer_boxes[i], labels, truth, config)
            wanted[i, query, labels[which]] = 1.0
            error = (layer_boxes[i, query] - truth[which]).abs() * known[which] * weight
            box = box + error.sum() / objects
        classify = classify + focal_loss(layer_logits, wanted).sum() / objects
    return {"classify": config.classify * classify, "box": config.box * box}
