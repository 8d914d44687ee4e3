"""Distillation: what LiDAR and large networks know, for students that cost nothing more to drive."""

from training.distill.losses import DISTILL_LOSSES, Loss
from training.distill.module import DistillConfig, Distiller, DistillModule, Term

__all__ = ["DISTILL_LOSSES", "DistillConfig", "DistillModule", "Distiller", "Loss", "Term"]
