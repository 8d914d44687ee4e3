"""UniDistill (Zhou et al., CVPR 2023): nine key points per object instead of regions, relations instead of features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.grid import BevGrid
from training.distill.places import gaussians, read_at
from training.distill.responses import masked_mean, regroup
from training.distill.scene import Pair, Scene, same_shape

# Centre, corners, edge midpoints of a box in units of half its length and width.
KEY_POINTS = tuple((float(x), float(y)) for x in (-1, 0, 1) for y in (-1, 0, 1))


@dataclass(frozen=True)
class UniFeatureConfig:
    """Low-level features; published weights 100 (LiDAR to camera), 10 (all other directions)."""

    weight: float = 100.0


@dataclass(frozen=True)
class UniRelationConfig:
    """High-level features; published weights 40 (LiDAR to camera), 5 (camera to LiDAR, both to camera), 1 (both to
    LiDAR)."""

    weight: float = 40.0


@dataclass(frozen=True)
class UniResponseConfig:
    """Responses in the ground truth's Gaussians; published weights 10 (all but camera to LiDAR) and 1 (camera to
    LiDAR).

    overlap, least_radius: of the Gaussians, which are not those of the detection's targets: with a least IoU of 0.7
    most reach no cell beside the centre's. soften: what the teacher's logits are divided by, and not the student's; 2
    in the released code of all four directions, 1 takes both as they are.
    """

    weight: float = 10.0
    overlap: float = 0.7
    least_radius: int = 0
    soften: float = 2.0


def sample_key_points(feature: Tensor, boxes: Tensor, grid: BevGrid) -> Tensor:
    """(B, C, X, Y) read at the boxes' key points (B, M, 7) -> (B, M, 9, C), bilinear, zero outside the map."""
    offsets = torch.tensor(KEY_POINTS, device=boxes.device)
    along = offsets[:, 0] * boxes[..., 3, None].float() / 2
    across = offsets[:, 1] * boxes[..., 4, None].float() / 2
    cos, sin = boxes[..., 6, None].float().cos(), boxes[..., 6, None].float().sin()
    x = boxes[..., 0, None] + along * cos - across * sin
    y = boxes[..., 1, None] + along * sin + across * cos
    return read_at(feature, torch.stack([x, y], dim=-1), grid)


def relation(points: Tensor) -> Tensor:
    """(B, M, 9, C) -> (B, M, 9, 9): cosine similarity of each two key points of an object."""
    unit = F.normalize(points, dim=-1)
    return (unit[..., :, None, :] * unit[..., None, :, :]).sum(dim=-1)


def _key_points(pair: Pair, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    boxes, valid = scene.target("gt_boxes"), scene.target("gt_valid") > 0
    centre = boxes[..., :2]
    grid = scene.grid
    inside = (centre[..., 0] >= grid.x_min) & (centre[..., 0] < grid.x_max)
    inside = inside & (centre[..., 1] >= grid.y_min) & (centre[..., 1] < grid.y_max)
    return (
        sample_key_points(pair.student, boxes, grid),
        sample_key_points(pair.teacher, boxes, grid),
        (valid & inside)[..., None, None],
    )


def unidistill_feature(pair: Pair, scene: Scene, config: UniFeatureConfig = UniFeatureConfig()) -> dict[str, Tensor]:
    """Mean over objects, key points and channels of |S - T|."""
    same_shape(pair, "unidistill_feature")
    student, teacher, counted = _key_points(pair, scene)
    return {"feature": config.weight * masked_mean((student - teacher).abs(), counted)}


def unidistill_relation(pair: Pair, scene: Scene, config: UniRelationConfig = UniRelationConfig()) -> dict[str, Tensor]:
    """Mean over objects of |relation(S) - relation(T)|; channels may differ between the two."""
    student, teacher, counted = _key_points(pair, scene)
    return {"relation": config.weight * masked_mean((relation(student) - relation(teacher)).abs(), counted)}


def unidistill_response(pair: Pair, scene: Scene, config: UniResponseConfig = UniResponseConfig()) -> dict[str, Tensor]:
    """L1 of the highest class score and of the regression, weighted by the boxes' Gaussians and divided by their sum;
    the pair are the `heatmap`s (B, classes, X, Y)."""
    same_shape(pair, "unidistill_response")
    shape = (pair.student.shape[2], pair.student.shape[3])
    boxes, valid = scene.target("gt_boxes"), scene.target("gt_valid")
    gaussian = gaussians(boxes, valid, scene.grid, shape, config.overlap, config.least_radius)
    wanted = (pair.teacher.float() / config.soften).sigmoid().amax(dim=1)
    score = (pair.student.float().sigmoid().amax(dim=1) - wanted).abs()
    teacher = regroup(scene.teacher.regression, pair.teacher, scene.teacher_of_class, scene.student_of_class)
    box = (scene.student.regression.float() - teacher.float()).abs().mean(dim=(1, 2))
    return {"response": config.weight * ((score + box) * gaussian).sum() / gaussian.sum().clamp(min=1)}
