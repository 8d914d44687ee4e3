"""Attention over BEV cells and channels from the size of activations (DistillBEV, Wang et al., ICCV 2023)."""

from __future__ import annotations

import torch
from torch import Tensor


def activation_map(feature: Tensor) -> Tensor:
    """P(F), (B, C, X, Y) -> (B, X, Y): mean of absolute values over channels, float32."""
    return feature.float().abs().mean(dim=1)


def spatial_attention(feature: Tensor, temperature: float = 0.5) -> Tensor:
    """N(F), (B, C, X, Y) -> (B, X, Y): X Y softmax(P(F) / temperature) over the cells of a sample; sums to X Y."""
    flat = activation_map(feature).flatten(1)
    return (flat.shape[1] * (flat / temperature).softmax(dim=1)).reshape(feature.shape[0], *feature.shape[2:])


def channel_attention(feature: Tensor, temperature: float = 0.5) -> Tensor:
    """(B, C, X, Y) -> (B, C, 1, 1): C softmax(mean over cells of |F| / temperature) over channels; sums to C."""
    mean = feature.float().abs().mean(dim=(2, 3))
    return (mean.shape[1] * (mean / temperature).softmax(dim=1))[..., None, None]


def joint_attention(teacher: Tensor, student: Tensor, mode: str, temperature: float, student_ratio: float) -> Tensor:
    """(B, X, Y) without gradient: (N(T) + r N(S)) / (1 + r) for mode "teacher_student", N(T) for "teacher", ones for
    "none". Raises ValueError for another mode."""
    with torch.no_grad():
        if mode == "none":
            return torch.ones(teacher.shape[0], *teacher.shape[2:], device=teacher.device)
        if mode not in ("teacher", "teacher_student"):
            raise ValueError(f"attention must be 'teacher_student', 'teacher' or 'none', found {mode!r}")
        attention = spatial_attention(teacher, temperature)
        if mode == "teacher_student":
            attention = (attention + student_ratio * spatial_attention(student, temperature)) / (1 + student_ratio)
        return attention
