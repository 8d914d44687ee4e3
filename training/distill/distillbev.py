"""DistillBEV (Wang et al., ICCV 2023, arXiv 2309.15109): feature and attention imitation by regions of the BEV map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bev_perception.grid import BevGrid
from training.distill.attention import activation_map, channel_attention, joint_attention
from training.distill.masks import (
    box_scale,
    component_share,
    per_cell_share,
    teacher_false_positives,
)
from training.distill.scene import Pair, Scene, same_shape
from training.models.footprints import box_index


@dataclass(frozen=True)
class DistillBevConfig:
    """One distilled layer. Defaults: the released launch scripts for BEVDet, BEVDet4D and BEVDepth students; they, not
    the checked-in configs, reproduce the published numbers. PAPER below has the paper's form where it differs.

    foreground, background, false_positive, spatial: weights of the four losses.
    false_positives: whether the teacher's false positives are a region of their own (the pre-head layer only).
    threshold: of both heatmaps.
    fp_scale: "average", 1 / count in the sample, or "component", 1 / size of the 4-connected component.
    fp_channel_attention: the code multiplies that region by the teacher's channel attention, the paper does not.
    cell_point: the code of the BEVDet family tests a cell's lower "corner" against the boxes; the paper and the
    BEVFormer code its "center".
    attention: "teacher_student", "teacher" (BEVFormer's script) or "none".
    regions: False takes the whole map as one region with the foreground's weight (plain imitation).
    scaling: "adaptive"; "uniform" gives all foreground cells of a sample one weight of the same sum; "none" weighs
    every cell 1.
    imitation: "mean_conv", the code's L1 of plain channel means, the student's through a learnable 3x3 convolution;
    "activation", the paper's L1 of mean absolute activations; "none".
    """

    foreground: float = 6e-3
    background: float = 4e-2
    false_positive: float = 6e-2
    spatial: float = 2.5e-3
    false_positives: bool = False
    threshold: float = 0.1
    fp_scale: str = "average"
    fp_channel_attention: bool = True
    cell_point: str = "corner"
    attention: str = "teacher_student"
    temperature: float = 0.5
    student_ratio: float = 1.0
    regions: bool = True
    scaling: str = "adaptive"
    imitation: str = "mean_conv"


PAPER = DistillBevConfig(fp_channel_attention=False, cell_point="center", imitation="activation")
BEVFORMER = DistillBevConfig(foreground=5e-3, background=4e-3, spatial=5e-4, cell_point="center", attention="teacher")


def region_weights(
    boxes: Tensor,
    valid: Tensor,
    false_positive: Tensor | None,
    grid: BevGrid,
    shape: tuple[int, int],
    c: DistillBevConfig,
) -> dict[str, Tensor]:
    """Mask times scale of each region, (B, X, Y) float32: "foreground", "background", "false_positive".

    boxes (B, M, 7), valid (B, M), false_positive (B, X, Y) bool or None; cells inside a box are never false positives.
    """
    samples = boxes.shape[0]
    if not c.regions:
        everywhere = torch.ones(samples, *shape, dtype=torch.bool, device=boxes.device)
        return {"foreground": everywhere.float() if c.scaling == "none" else per_cell_share(everywhere)}
    index = box_index(boxes, valid, grid, shape, c.cell_point)
    inside = index >= 0
    outside = ~inside
    regions: dict[str, Tensor] = {}
    if false_positive is not None:
        false_positive = false_positive & outside
        outside = outside & ~false_positive
        share = component_share if c.fp_scale == "component" else per_cell_share
        regions["false_positive"] = false_positive.float() if c.scaling == "none" else share(false_positive)
    regions["background"] = outside.float() if c.scaling == "none" else per_cell_share(outside)
    scale = box_scale(index, boxes, grid)
    if c.scaling == "adaptive":
        regions["foreground"] = scale
    elif c.scaling == "uniform":
        regions["foreground"] = per_cell_share(inside) * scale.flatten(1).sum(dim=1)[:, None, None]
    elif c.scaling == "none":
        regions["foreground"] = inside.float()
    else:
        raise ValueError(f"scaling must be 'adaptive', 'uniform' or 'none', found {c.scaling!r}")
    return regions


def feature_imitation(
    student: Tensor, teacher: Tensor, regions: dict[str, Tensor], config: DistillBevConfig
) -> dict[str, Tensor]:
    """Per region: weight x sum over channels and cells of (T - S)^2 x region x A, divided by the batch size.

    student, teacher (B, C, X, Y); regions as from region_weights. A (spatial attention) carries no gradient.
    """
    attention = joint_attention(teacher, student, config.attention, config.temperature, config.student_ratio)
    error = F.mse_loss(student.float(), teacher.float(), reduction="none")
    channels = torch.ones(1, error.shape[1], device=error.device).expand(len(error), -1)[:, None]
    if "false_positive" in regions and config.fp_channel_attention:
        channels = torch.cat([channels, channel_attention(teacher, config.temperature)[:, None, :, 0, 0]], dim=1)
    # A product of matrices sums over channels in one pass: (B, 1 or 2, X, Y), plain and by the teacher's channels.
    summed = (channels @ error.flatten(2)).unflatten(2, error.shape[2:])
    weights = {
        "foreground": config.foreground,
        "background": config.background,
        "false_positive": config.false_positive,
    }
    losses = {}
    for name, region in regions.items():
        cells = summed[:, -1 if name == "false_positive" else 0]
        losses[name] = weights[name] * (cells * region * attention).sum() / student.shape[0]
    return losses


def attention_imitation(
    student: Tensor, teacher: Tensor, config: DistillBevConfig, project: Callable[[Tensor], Tensor] | None
) -> Tensor:
    """weight x sum over cells of |map(T) - map(S)| / B; maps as config.imitation says, `project` the convolution."""
    if config.imitation == "activation":
        difference = activation_map(teacher) - activation_map(student)
    elif config.imitation == "mean_conv":
        if project is None:
            raise ValueError("imitation 'mean_conv' needs its 3x3 convolution; take imitation='activation' without one")
        mean = student.float().mean(dim=1, keepdim=True)
        difference = teacher.float().mean(dim=1) - project(mean)[:, 0].float()
    else:
        raise ValueError(f"imitation must be 'mean_conv', 'activation' or 'none', found {config.imitation!r}")
    return config.spatial * difference.abs().sum() / student.shape[0]


def spatial_projection(config: DistillBevConfig) -> nn.Module | None:
    """The learnable part of this loss: a 3x3 convolution, one channel to one."""
    return nn.Conv2d(1, 1, 3, 1, 1) if config.imitation == "mean_conv" else None


def distillbev(pair: Pair, scene: Scene, config: DistillBevConfig = DistillBevConfig()) -> dict[str, Tensor]:
    """All of the method on one layer; terms "foreground", "background", "false_positive", "attention"."""
    same_shape(pair, "distillbev")
    shape = (pair.student.shape[2], pair.student.shape[3])
    false_positive = None
    if config.false_positives and config.regions:
        false_positive = teacher_false_positives(
            scene.teacher.heatmap, scene.target("heatmap"), shape, config.threshold
        )
    regions = region_weights(
        scene.target("gt_boxes"), scene.target("gt_valid"), false_positive, scene.grid, shape, config
    )
    losses = feature_imitation(pair.student, pair.teacher, regions, config)
    if config.imitation != "none":
        losses["attention"] = attention_imitation(pair.student, pair.teacher, config, pair.part)
    return losses
