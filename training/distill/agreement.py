"""How far a student says what its teacher says, by region of the map; and how hard each loss pulls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from training.distill.masks import teacher_false_positives
from training.distill.responses import masked_mean
from training.distill.scene import Scene
from training.footprints import footprints


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


def gradient_norms(losses: Mapping[str, Tensor], parameters: Iterable[Tensor]) -> dict[str, float]:
    """The 2-norm of each loss's gradient over `parameters`, 0 where it does not reach them; the graph is kept."""
    wanted = [p for p in parameters if p.requires_grad]
    norms = {}
    for name, loss in losses.items():
        if not loss.requires_grad:
            norms[name] = 0.0
            continue
        gradients = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        squares = [(g.detach().float() ** 2).sum() for g in gradients if g is not None]
        norms[name] = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
    return norms
