"""A teacher that cannot be trained by accident."""

from __future__ import annotations

import torch

from training.models.detector import Detector


class FrozenTeacher:
    """Holds a detector: always in eval mode, no gradients, no parameters of anyone else's.

    It is not an nn.Module: a module or trainer that has it as an attribute does not see the detector's parameters, so
    they are in no state dict, no optimiser, no gradient reduction, and `.train()` does not reach it. What moves the
    student must move it, too: `teacher.to(device)`.
    """

    def __init__(self, detector: Detector) -> None:
        detector.requires_grad_(False)
        detector.eval()
        self.detector = detector

    def to(self, device: torch.device | str) -> FrozenTeacher:
        """Move the network; returns itself."""
        self.detector.to(device)
        return self
