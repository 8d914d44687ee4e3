"""BEV-LGKD (IEEE T-IV 2023, arXiv 2212.00623): a large camera teacher, and LiDAR that says where to listen to it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bev_perception.model_spec import BOX_CHANNELS
from training.distill.masks import depth_known, point_cells, points_in_boxes, view_cells
from training.distill.responses import classes_by_task, masked_mean, regroup, soft_kl
from training.distill.scene import Pair, Scene, same_shape
from training.losses.probabilities import log_probabilities

OFFSET = [BOX_CHANNELS.index("dx"), BOX_CHANNELS.index("dy")]
ROTATION = [BOX_CHANNELS.index("sin_yaw"), BOX_CHANNELS.index("cos_yaw")]


@dataclass(frozen=True)
class LgkdFeatureConfig:
    """Masked BEV imitation, weight 1 in the released code.

    points: "foreground" (the paper's intent: LiDAR points inside ground truth boxes) or "all" (what the released code
    keeps, its class filter being commented out). view_threshold: depth probability above which a camera's splat reaches
    a cell. views: how many cameras are summed, 0 for all (the first commit looped over 4 of 6).
    """

    weight: float = 1.0
    points: str = "foreground"
    view_threshold: float = 0.01
    views: int = 0


@dataclass(frozen=True)
class LgkdDepthConfig:
    """Distillation of the depth distribution. form: "logits" divides logits by the temperature (default: a softened
    distribution as in Hinton et al.); "released" divides the softmax probabilities, as the published code does."""

    weight: float = 1.0
    temperature: float = 1.25
    form: str = "logits"


@dataclass(frozen=True)
class LgkdResponseConfig:
    """Soft labels: `heatmap` x T^2 KL over a task's classes, smooth L1 of offset and rotation.

    A task of one class has no softmax to speak of: its heatmap adds nothing, as in the released code.
    """

    weight: float = 1.0
    temperature: float = 1.25
    heatmap: float = 0.25


def masked_imitation(student: Tensor, teacher: Tensor, lidar: Tensor, views: Tensor) -> Tensor:
    """Sum over views of the mean of (S - T)^2 over channels and cells where T != 0, the view reaches and LiDAR hits.

    student, teacher (B, C, X, Y); lidar (B, X, Y) bool; views (B, N, X, Y) bool.
    """
    error = (student.float() - teacher.float()) ** 2
    active = (teacher != 0) & lidar[:, None]
    terms = [masked_mean(error, active & views[:, n, None]) for n in range(views.shape[1])]
    return torch.stack(terms).sum()


def depth_imitation(student: Tensor, teacher: Tensor, known: Tensor, config: LgkdDepthConfig) -> Tensor:
    """T^2 x binary cross entropy of depth distributions, summed over bins, mean over pixels with LiDAR.

    student, teacher (B, N, D, h, w) logits; known (B, N, h, w) bool. In the "logits" form the teacher's entropy is
    taken off: same gradient, and 0 where both agree. The "released" form is the bare cross entropy of probability / T.
    Raises ValueError for another form, and for a temperature below 1 in the "released" one.
    """
    t = config.temperature
    if config.form == "logits":
        log_p, log_not_p = log_probabilities(teacher.float() / t, dim=2)
        log_q, log_not_q = log_probabilities(student.float() / t, dim=2)
    elif config.form == "released":
        log_p, log_not_p = _over_temperature(*log_probabilities(teacher, dim=2), t)
        log_q, log_not_q = _over_temperature(*log_probabilities(student, dim=2), t)
    else:
        raise ValueError(f"form must be 'logits' or 'released', found {config.form!r}")
    entropy = -(log_p.exp() * log_q + log_not_p.exp() * log_not_q)
    if config.form == "logits":
        entropy = entropy + log_p.exp() * log_p + log_not_p.exp() * log_not_p
    return t**2 * masked_mean(entropy.sum(dim=2), known)


def _over_temperature(log_p: Tensor, log_not_p: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """log p and log(1 - p) -> those of p / t."""
    if t < 1:
        raise ValueError(f"form 'released' divides probabilities: its temperature must be 1 or more, found {t}")
    if t == 1:
        return log_p, log_not_p
    # 1 - p / t = (1 - p) + p (1 - 1 / t)
    return log_p - math.log(t), torch.logaddexp(log_not_p, log_p + math.log1p(-1 / t))


def response_imitation(
    student_heatmap: Tensor,
    teacher_heatmap: Tensor,
    student_regression: Tensor,
    teacher_regression: Tensor,
    of_class: tuple[int, ...],
    config: LgkdResponseConfig,
) -> Tensor:
    """Sum over tasks of 0.25 T^2 KL + smooth L1 of offset + smooth L1 of rotation, means over cells.

    Heatmaps (B, classes, X, Y) logits, regressions (B, T, 10, X, Y), of_class the task of each class.
    """
    total = student_heatmap.new_zeros((), dtype=torch.float32)
    for task, classes in enumerate(classes_by_task(of_class)):
        kl = soft_kl(student_heatmap[:, classes], teacher_heatmap[:, classes], config.temperature)
        total = total + config.heatmap * kl.mean()
        for part in (OFFSET, ROTATION):
            s, t = student_regression[:, task, part].float(), teacher_regression[:, task, part].float()
            total = total + F.smooth_l1_loss(s, t)
    return total


def lgkd_feature(pair: Pair, scene: Scene, config: LgkdFeatureConfig = LgkdFeatureConfig()) -> dict[str, Tensor]:
    """Masked BEV imitation under the LiDAR mask and the teacher's view masks; the batch needs LiDAR points."""
    same_shape(pair, "lgkd_feature")
    shape = (pair.student.shape[2], pair.student.shape[3])
    points = scene.target("lidar")
    if config.points == "foreground":
        boxes, valid = scene.target("gt_boxes"), scene.target("gt_valid")
        points = points[points_in_boxes(points, boxes, valid, scene.grid)]
    elif config.points != "all":
        raise ValueError(f"points must be 'foreground' or 'all', found {config.points!r}")
    lidar = point_cells(points, scene.grid, shape, pair.student.shape[0])
    if scene.bins is None or "depth" not in scene.teacher.aux:
        raise ValueError("lgkd_feature needs a camera teacher that predicts depth (aux `depth` and config.bins)")
    depth = scene.teacher.aux["depth"].float().softmax(dim=2)
    views = view_cells(
        depth,
        scene.target("img_from_ego"),
        scene.target("camera_valid"),
        scene.bins,
        scene.image_height // depth.shape[3],
        scene.grid,
        shape,
        config.view_threshold,
    )
    views = views[:, : config.views] if config.views else views
    return {"feature": config.weight * masked_imitation(pair.student, pair.teacher, lidar, views)}


def lgkd_depth(pair: Pair, scene: Scene, config: LgkdDepthConfig = LgkdDepthConfig()) -> dict[str, Tensor]:
    """Depth distillation; the pair are depth logits (`aux.depth`), the batch's `depth` says where LiDAR returns are."""
    same_shape(pair, "lgkd_depth")
    known = depth_known(scene.target("depth"), (pair.student.shape[3], pair.student.shape[4]))
    known = known & (scene.target("camera_valid") > 0)[..., None, None]
    return {"depth": config.weight * depth_imitation(pair.student, pair.teacher, known, config)}


def lgkd_response(pair: Pair, scene: Scene, config: LgkdResponseConfig = LgkdResponseConfig()) -> dict[str, Tensor]:
    """Soft labels of the heads; the pair are the `heatmap`s, the regressions come from the two predictions."""
    same_shape(pair, "lgkd_response")
    teacher_regression = regroup(scene.teacher.regression, pair.teacher, scene.teacher_of_class, scene.student_of_class)
    loss = response_imitation(
        pair.student, pair.teacher, scene.student.regression, teacher_regression, scene.student_of_class, config
    )
    return {"response": config.weight * loss}
