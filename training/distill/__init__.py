"""Distillation: what LiDAR and large networks know, for students that cost nothing more to drive."""

from training.distill.config import DistillConfig, Term
from training.distill.losses import DISTILL_LOSSES, Loss
from training.distill.module import Distiller

__all__ = ["DISTILL_LOSSES", "DistillConfig", "Distiller", "Loss", "Term"]
