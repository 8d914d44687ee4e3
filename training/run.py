"""What defines a training run."""

from __future__ import annotations

from dataclasses import dataclass

from bev_perception.model_spec import ModelSpec
from training.data.augment import Augmentation
from training.lightning_module import OptimConfig
from training.models.camera_radar import StudentConfig


@dataclass(frozen=True)
class Run:
    """An experiment: model facts, sizes, optimisation and augmentation. Length is OptimConfig.steps.

    checkpoint_every: steps between two checkpoints; what a killed run loses at most.
    """

    spec: ModelSpec
    student: StudentConfig
    optim: OptimConfig
    augmentation: Augmentation
    batch_size: int
    seed: int = 0
    precision: str = "bf16-mixed"
    checkpoint_every: int = 200
