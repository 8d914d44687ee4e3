"""CenterPoint's losses (Yin et al., CVPR 2021) and the auxiliary ones of the image branch and the view transform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.grid import BevGrid
from bev_perception.model_spec import BOX_CHANNELS
from training.losses.box_iou import paired_diou, paired_iou
from training.losses.probabilities import log_probabilities
from training.models.detector import Detector, Prediction, task_index
from training.models.footprints import footprints
from training.models.view.depth_bins import DepthBins
from training.processes import count_of_all, sum_of_all

YAW = slice(BOX_CHANNELS.index("sin_yaw"), BOX_CHANNELS.index("cos_yaw") + 1)
VELOCITY = slice(BOX_CHANNELS.index("vx"), BOX_CHANNELS.index("vy") + 1)


@dataclass(frozen=True)
class LossConfig:
    """Weights; the defaults are CenterPoint's and BEVDepth's (Li et al., AAAI 2023).

    box: of all box terms; velocity, rotation: factors on theirs. velocity_beta: below this many m/s of error the
    velocity loss is quadratic, 0 for plain L1. Most objects stand: plain L1, which asks for the median, can hold every
    velocity weight of a short run at zero (docs/lab_notes/velocity.md).
    depth_form: a key of DEPTH_LOSSES. iou, diou: of detectors with an IoU branch (PillarNet, Shi et al., ECCV 2022).
    """

    box: float = 0.25
    velocity: float = 0.2
    velocity_beta: float = 0.0
    rotation: float = 1.0
    depth: float = 3.0
    depth_form: str = "bce"
    semantic: float = 0.3
    foreground: float = 1.0
    iou: float = 1.0
    diou: float = 0.25


def heatmap_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Penalty-reduced focal loss over (B, classes, X, Y), per positive cell; float32.

    Without CenterPoint's limits of 1e-4 on probabilities: beyond them a cell that is surely wrong would not learn.
    """
    logits = logits.float()
    p, log_p, log_not_p = logits.sigmoid(), F.logsigmoid(logits), F.logsigmoid(-logits)
    positive = (target == 1).float()
    loss = positive * (1 - p) ** 2 * log_p + (1 - positive) * (1 - target) ** 4 * p**2 * log_not_p
    return -loss.sum() / count_of_all(positive.sum())


def box_loss(regression: Tensor, cells: Tensor, boxes: Tensor, mask: Tensor, config: LossConfig) -> Tensor:
    """Weighted L1 at the objects' cells, smooth for velocity: (B, 10, X, Y), (B, M), (B, M, 10), (B, M, 10)."""
    predicted = at_cells(regression, cells)
    loss = (predicted - boxes).abs()
    velocity = F.smooth_l1_loss(
        predicted[..., VELOCITY], boxes[..., VELOCITY], reduction="none", beta=config.velocity_beta
    )
    place = loss[..., : YAW.start]
    loss = torch.cat([place, config.rotation * loss[..., YAW], config.velocity * velocity], dim=-1)
    return config.box * (loss * mask).sum() / count_of_all(mask[..., 0].sum())


def at_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """(B, C, X, Y), (B, M) int64 ix * Y + iy -> (B, M, C) float32."""
    return maps.float().flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


def depth_cross_entropy(logits: Tensor, depth: Tensor, camera_valid: Tensor, bins: DepthBins) -> Tensor:
    """Cross entropy over bins where LiDAR gives a depth: (B, N, D, h, w), (B, N, h, w) metres with 0 for unknown."""
    target, known = _depth_bins(depth, camera_valid, bins)
    loss = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(0, 1), reduction="none")
    return (loss * known.flatten(0, 1)).sum() / count_of_all(known.sum())


def depth_bce(logits: Tensor, depth: Tensor, camera_valid: Tensor, bins: DepthBins) -> Tensor:
    """BEVDepth's form: binary cross entropy of every bin's softmax probability, summed over bins; float32."""
    target, known = _depth_bins(depth, camera_valid, bins)
    log_p, log_not_p = log_probabilities(logits, dim=2)
    hot = F.one_hot(target, bins.count).movedim(-1, 2)
    loss = -torch.where(hot > 0, log_p, log_not_p).sum(dim=2)
    return (loss * known).sum() / count_of_all(known.sum())


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
    return (loss * weight.flatten(0, 1)).sum() / count_of_all(weight.sum())


def foreground_loss(logits: Tensor, target: Tensor) -> Tensor:
    """FB-BEV's region proposal (Li et al., ICCV 2023): BCE, positives weighed 2.13, plus dice; (B, 1, X, Y) both.

    Dice is that of all processes' cells.
    """
    logits, target = logits.float(), target.float()
    bce = F.binary_cross_entropy_with_logits(logits, target, pos_weight=logits.new_tensor(2.13))
    p = logits.sigmoid()
    overlap, either = sum_of_all((p * target).sum()), sum_of_all(p.sum() + target.sum())
    return bce + 1 - (2 * overlap + 1) / (either + 1)


def iou_losses(
    iou: Tensor, regression: Tensor, cells: Tensor, boxes: Tensor, mask: Tensor, step: float
) -> tuple[Tensor, Tensor]:
    """PillarNet's two terms at the objects' cells, unweighted: L1 of the IoU branch to 2 IoU - 1 of the box predicted
    there (without gradient to that box), and 1 - DIoU of the box.

    iou (B, X, Y), regression (B, 10, X, Y), cells (B, M), boxes and mask (B, M, 10), step: the cell's metres.
    """
    predicted, real = _metric_boxes(at_cells(regression, cells), step), _metric_boxes(boxes.float(), step)
    known = mask[..., 0]
    objects = count_of_all(known.sum())
    target = 2 * paired_iou(predicted.detach(), real) - 1
    branch = (at_cells(iou[:, None], cells)[..., 0] - target).abs()
    return (branch * known).sum() / objects, ((1 - paired_diou(predicted, real)) * known).sum() / objects


def foreground_target(batch: dict[str, Tensor], grid: BevGrid) -> Tensor:
    """(B, 1, X, Y) float32: cells whose centre a box covers, and the cell of every object's centre."""
    covered = footprints(batch["gt_boxes"], batch["gt_valid"], grid, grid.shape)
    return (covered | (batch["heatmap"].amax(dim=1) == 1))[:, None].float()


def _metric_boxes(coded: Tensor, step: float) -> Tensor:
    """(..., 10) BOX_CHANNELS -> (..., 7) boxes in metres, relative to the corner of their cell; no gradient to yaw."""
    size = coded[..., 3:6].clamp(-5, 5).exp()  # 7 mm to 150 m: an untrained network must not make infinities
    yaw = torch.atan2(coded[..., 6:7].detach(), coded[..., 7:8].detach())
    return torch.cat([coded[..., :2] * step, coded[..., 2:3], size, yaw], dim=-1)


def detection_losses(
    prediction: Prediction, batch: dict[str, Tensor], detector: Detector, config: LossConfig
) -> dict[str, Tensor]:
    """Every term that the prediction has something for, weighted. Heatmap and box terms are summed over tasks."""
    spec = detector.spec
    of_class = task_index(detector.tasks, spec.classes)
    heatmap, box, iou, diou = [], [], [], []
    aux = prediction.aux
    tasks = torch.tensor(of_class, device=batch["labels"].device)[batch["labels"]]
    for task in range(len(detector.tasks)):
        classes = [c for c, t in enumerate(of_class) if t == task]
        heatmap.append(heatmap_loss(prediction.heatmap[:, classes], batch["heatmap"][:, classes]))
        mask = batch["mask"] * (tasks == task)[..., None]
        targets = batch["cells"], batch["boxes"], mask
        box.append(box_loss(prediction.regression[:, task], *targets, config))
        if "iou" in aux:
            terms = iou_losses(aux["iou"][:, task], prediction.regression[:, task], *targets, spec.grid.step)
            iou.append(config.iou * terms[0])
            diou.append(config.diou * terms[1])
    losses = {"heatmap": torch.stack(heatmap).sum(), "box": torch.stack(box).sum()}
    if "iou" in aux:
        losses |= {"iou": torch.stack(iou).sum(), "diou": torch.stack(diou).sum()}
    if "depth" in aux:
        form = DEPTH_LOSSES[config.depth_form]
        assert detector.bins is not None  # it predicts depth
        losses["depth"] = config.depth * form(aux["depth"], batch["depth"], batch["camera_valid"], detector.bins)
    if "semantic" in aux:
        losses["semantic"] = config.semantic * semantic_loss(aux["semantic"], batch["semantic"], batch["camera_valid"])
    if "foreground" in aux:
        target = foreground_target(batch, spec.grid)
        losses["foreground"] = config.foreground * foreground_loss(aux["foreground"], target)
    return losses
