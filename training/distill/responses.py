"""What a head says, made comparable between a student's and a teacher's grouping of classes into tasks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def classes_by_task(of_class: tuple[int, ...]) -> list[list[int]]:
    """(0, 1, 1) -> [[0], [1, 2]]: the classes of each task."""
    return [[k for k, t in enumerate(of_class) if t == task] for task in range(max(of_class) + 1)]


def regroup(regression: Tensor, heatmap: Tensor, of_class: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor:
    """Regression (B, T, 10, X, Y) of tasks `of_class` -> that of tasks `wanted` (B, T', 10, X, Y).

    Where tasks are joined, a cell takes the box of the class with the highest of heatmap (B, classes, X, Y).
    """
    if of_class == wanted:
        return regression
    source = torch.tensor(of_class, device=regression.device)
    rows = []
    for classes in classes_by_task(wanted):
        best = torch.tensor(classes, device=regression.device)[heatmap[:, classes].argmax(dim=1)]  # (B, X, Y)
        task = source[best][:, None, None].expand(-1, 1, *regression.shape[2:])
        rows.append(regression.gather(1, task)[:, 0])
    return torch.stack(rows, dim=1)


def soft_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """(B, K, X, Y) logits -> (B, X, Y): T^2 KL(softmax_K(teacher / T) || softmax_K(student / T))."""
    p = (teacher.float() / temperature).log_softmax(dim=1)
    q = (student.float() / temperature).log_softmax(dim=1)
    return temperature**2 * (p.exp() * (p - q)).sum(dim=1)


def sigmoid_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Logits of any shape -> T^2 KL between the Bernoulli variables sigmoid(teacher / T) and sigmoid(student / T)."""
    s, t = student.float() / temperature, teacher.float() / temperature
    p = t.sigmoid()
    kl = p * (F.logsigmoid(t) - F.logsigmoid(s)) + (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return temperature**2 * kl


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where the broadcastable `mask` is true; 0 when it is true nowhere."""
    mask = mask.expand_as(values)
    return torch.where(mask, values, torch.zeros_like(values)).sum() / mask.sum().clamp(min=1)
