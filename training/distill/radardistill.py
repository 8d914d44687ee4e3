"""RadarDistill (Bang et al., CVPR 2024, arXiv 2403.05061): AFD on low-level and PFD on high-level features.

The third part, CMA, belongs to the radar student's network: it is driven and not only trained.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from training.distill.masks import resize_map
from training.distill.scene import Pair, Scene, same_shape


@dataclass(frozen=True)
class AfdConfig:
    """Activation-aware feature distillation. both, radar_only: the paper's alpha and beta; weight: its gamma.

    mask: weight of the released code's extra term mean |sigmoid(sum_c F) - M_l|, which is not in the paper: 0 is the
    paper's form (default), 1 the code's.
    """

    both: float = 3e-4
    radar_only: float = 5e-5
    weight: float = 5.0
    mask: float = 0.0


@dataclass(frozen=True)
class PfdConfig:
    """Proposal-based feature distillation. positive, false_positive: lambda 1 and 2; weight: delta; threshold of both
    heatmaps. softmax: False compares bare features (the paper's ablation)."""

    positive: float = 5.0
    false_positive: float = 1.0
    weight: float = 25.0
    threshold: float = 0.1
    softmax: bool = True


def activation_regions(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, X', Y') and (B, D, X, Y) -> (B, X, Y) bool: active in both, active in the student only. Active: channel
    sum > 0."""
    active_t = teacher.float().sum(dim=1) > 0
    active_s = resize_map(student.float().sum(dim=1) > 0, (active_t.shape[1], active_t.shape[2]))
    return active_s & active_t, active_s & ~active_t


def activation_aware(
    student: Tensor, teacher: Tensor, config: AfdConfig = AfdConfig(), unadapted: Tensor | None = None
) -> Tensor:
    """L_low: (1 / B) sum [alpha 1_AR + beta rho 1_IR] (T - S)^2, rho = N_AR / N_IR over the batch.

    N_IR is at least 1: the released code divides by zero when the radar is active nowhere outside LiDAR. Where an
    adapter made `student` from `unadapted`, that one says where the radar is active: what a fresh adapter's channels
    sum to says nothing.
    """
    both, only = activation_regions(student if unadapted is None else unadapted, teacher)
    rho = both.sum() / only.sum().clamp(min=1)
    weights = config.both * both.float() + config.radar_only * rho * only.float()
    error = ((student.float() - teacher.float()) ** 2).sum(dim=1)
    return (weights * error).sum() / student.shape[0]


def activation_mask(student: Tensor, teacher: Tensor) -> Tensor:
    """The released code's extra term: mean over cells of |sigmoid(sum_c S) - [sum_c T > 0]|."""
    active = (teacher.float().sum(dim=1) > 0).float()
    return (student.float().sum(dim=1).sigmoid() - active).abs().mean()


def proposal_weights(student: Tensor, target: Tensor, config: PfdConfig = PfdConfig()) -> Tensor:
    """W (B, X, Y): lambda1 / (N_TP + N_FN) where an object is, lambda2 / N_FP where only the student sees one.

    student (B, X, Y) logits and target (B, X, Y), both maxima over classes; counts over the batch, at least 1. TP and
    FN together are all cells whose target is above the threshold, whatever the student says.
    """
    positive = target > config.threshold
    false_positive = (target < config.threshold) & (student.float().sigmoid() > config.threshold)
    on_objects = config.positive * positive.float() / positive.sum().clamp(min=1)
    return on_objects + config.false_positive * false_positive.float() / false_positive.sum().clamp(min=1)


def proposal_based(student: Tensor, teacher: Tensor, weights: Tensor, softmax: bool = True) -> Tensor:
    """sum over channels and cells of W |softmax_c T - softmax_c S|; at most 2 sum W. (B, C, X, Y) twice, (B, X, Y)."""
    s, t = student.float(), teacher.float()
    if softmax:
        s, t = s.softmax(dim=1), t.softmax(dim=1)
    return (weights * (t - s).abs().sum(dim=1)).sum()


def radardistill_afd(pair: Pair, scene: Scene, config: AfdConfig = AfdConfig()) -> dict[str, Tensor]:
    """AFD of one low-level pair; the paper averages two, so give each of two terms the weight 0.5."""
    same_shape(pair, "radardistill_afd")
    losses = {"low": config.weight * activation_aware(pair.student, pair.teacher, config, pair.unadapted)}
    if config.mask:
        losses["mask"] = config.weight * config.mask * activation_mask(pair.student, pair.teacher)
    return losses


def radardistill_pfd(pair: Pair, scene: Scene, config: PfdConfig = PfdConfig()) -> dict[str, Tensor]:
    """PFD of one high-level pair; the paper averages two, so give each of two terms the weight 0.5.

    Where features and heatmaps differ in resolution, a feature cell takes the highest of the scores that it covers.
    """
    same_shape(pair, "radardistill_pfd")
    shape = (pair.student.shape[2], pair.student.shape[3])
    heatmap = resize_map(scene.student.heatmap.detach().amax(dim=1), shape)
    target = resize_map(scene.target("heatmap").amax(dim=1), shape)
    weights = proposal_weights(heatmap, target, config)
    return {"high": config.weight * proposal_based(pair.student, pair.teacher, weights, config.softmax)}
