"""The simple ways to distil, against which the others are measured."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from training.distill.responses import masked_mean, regroup, sigmoid_kl
from training.distill.scene import Pair, Scene, same_shape
from training.models.footprints import footprints


@dataclass(frozen=True)
class PlainConfig:
    """Feature imitation without thought: weight x mean squared error over everything."""

    weight: float = 1.0


@dataclass(frozen=True)
class ForegroundConfig:
    """FitNet (Romero et al., ICLR 2015) in ground truth boxes only: weight x mean squared error over their cells."""

    weight: float = 1.0


@dataclass(frozen=True)
class LogitConfig:
    """Response distillation (Hinton et al., 2015) for a heatmap: classes are not exclusive, hence sigmoids.

    regression: weight of the L1 of boxes where the teacher's score is above `threshold`, weighted by that score.
    """

    weight: float = 1.0
    temperature: float = 2.0
    regression: float = 0.25
    threshold: float = 0.1


def plain_feature(pair: Pair, scene: Scene, config: PlainConfig = PlainConfig()) -> dict[str, Tensor]:
    """Mean of (S - T)^2 over (B, C, X, Y)."""
    same_shape(pair, "plain_feature")
    return {"feature": config.weight * F.mse_loss(pair.student.float(), pair.teacher.float())}


def foreground_feature(pair: Pair, scene: Scene, config: ForegroundConfig = ForegroundConfig()) -> dict[str, Tensor]:
    """Mean of (S - T)^2 over channels and the cells whose centre lies in a ground truth box; 0 without any."""
    same_shape(pair, "foreground_feature")
    shape = (pair.student.shape[2], pair.student.shape[3])
    inside = footprints(scene.target("gt_boxes"), scene.target("gt_valid"), scene.grid, shape)
    error = (pair.student.float() - pair.teacher.float()) ** 2
    return {"feature": config.weight * masked_mean(error, inside[:, None])}


def logits(pair: Pair, scene: Scene, config: LogitConfig = LogitConfig()) -> dict[str, Tensor]:
    """Soft heatmap and teacher-weighted boxes; the pair are the `heatmap`s (B, classes, X, Y).

    Both are divided by the sum of the teacher's scores above the threshold, as the focal loss is by its positives.
    """
    same_shape(pair, "logits")
    score = pair.teacher.float().sigmoid()
    weight = score.amax(dim=1) * (score.amax(dim=1) > config.threshold)
    count = weight.sum().clamp(min=1)
    heatmap = sigmoid_kl(pair.student, pair.teacher, config.temperature).sum() / count
    teacher = regroup(scene.teacher.regression, pair.teacher, scene.teacher_of_class, scene.student_of_class)
    error = (scene.student.regression.float() - teacher.float()).abs().mean(dim=1).sum(dim=1)
    losses = {"heatmap": config.weight * heatmap}
    if config.regression:
        losses["regression"] = config.weight * config.regression * (error * weight).sum() / count
    return losses
