"""How far a student says what its teacher says, by region of the map; and how hard each loss pulls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.distill.masks import teacher_false_positives
from training.distill.responses import masked_mean
from training.distill.scene import Scene
from training.models.footprints import footprints
from training.processes import mean_over_processes


def regions(scene: Scene, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Disjoint (B, X, Y) bool maps: "foreground" (in boxes), "false_positive" (the teacher's), "background"."""
    inside = footprints(scene.target("gt_boxes"), scene.target("gt_valid"), scene.grid, shape)
    false_positive = torch.zeros_like(inside)
    target = scene.batch.get("heatmap")
    if target is not None and scene.teacher.heatmap.ndim == 4:
        false_positive = teacher_false_positives(scene.teacher.heatmap, target, shape) & ~inside
    return {"foreground": inside, "false_positive": false_positive, "background": ~inside & ~false_positive}


@torch.no_grad()
def agreement(student: Tensor, teacher: Tensor, scene: Scene) -> dict[str, Tensor]:
    """Per region "cosine/<region>", the mean cosine similarity of channel vectors, and "error/<region>", the sum of
    (S - T)^2 over that of T^2. (B, C, X, Y) each, the student's adapted; 0 for a region without cells."""
    s, t = student.float(), teacher.float()
    cosine = F.cosine_similarity(s, t, dim=1)
    error, size = ((s - t) ** 2).sum(dim=1), (t**2).sum(dim=1)
    found = {}
    for name, mask in regions(scene, (s.shape[2], s.shape[3])).items():
        found[f"cosine/{name}"] = masked_mean(cosine, mask)
        found[f"error/{name}"] = (error * mask).sum() / (size * mask).sum().clamp(min=1e-6)
    return found


def gradient_norms(losses: Mapping[str, Tensor], parameters: Iterable[Tensor]) -> dict[str, Tensor]:
    """The 2-norms of each loss's gradient on each of `parameters` that learns, (P,), 0 where it does not reach it; the
    graph is kept.

    With several processes it is that of the mean of their gradients, which is what the optimiser sees; every process
    must call it with losses of the same names.
    """
    wanted = [p for p in parameters if p.requires_grad]
    norms = {}
    for name, loss in losses.items():
        gradients: Sequence[Tensor | None] = [None] * len(wanted)
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        known = (torch.zeros_like(p) if g is None else g.detach() for p, g in zip(wanted, gradients, strict=True))
        squares = [(mean_over_processes(g.float()) ** 2).sum() for g in known]
        norms[name] = torch.stack(squares).sqrt()
    return norms


def gradient_share(term: Tensor, detection: Tensor) -> float:
    """How hard a term pulls beside detection at what it reaches: the norm of its gradient over that of detection's, on
    the parameters where it has one. (P,) each, of `gradient_norms`. nan where either has none."""
    own, beside = float(term.norm()), float(detection[term > 0].norm())
    return own / beside if own and beside else math.nan
