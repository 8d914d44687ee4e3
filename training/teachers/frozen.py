"""A teacher that cannot be trained by accident."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.models.detector import Memory, Prediction


class FrozenTeacher:
    """Holds a detector: always in eval mode, no gradients, no parameters of anyone else's.

    It is not an nn.Module: a module or trainer that has it as an attribute does not see the detector's parameters, so
    they are in no state dict, no optimiser, no gradient reduction, and `.train()` does not reach it. What moves the
    student must move it, too: `teacher.to(device)`.
    """

    def __init__(self, detector: nn.Module) -> None:
        self._detector = detector.requires_grad_(False).eval()

    @property
    def detector(self) -> nn.Module:
        """The network; for reading (tasks, head weights to inherit)."""
        return self._detector

    def __call__(self, inputs: dict[str, Tensor], memory: Memory | None = None) -> Prediction:
        self._detector.eval()  # whatever someone did to `detector` since
        with torch.no_grad():
            prediction: Prediction = self._detector(inputs, memory)
        return prediction

    def to(self, device: torch.device | str) -> FrozenTeacher:
        """Move the network; returns itself."""
        self._detector.to(device)
        return self

    def state_dict(self) -> dict[str, Any]:
        """The network's own weights, to tell whether they changed."""
        return self._detector.state_dict()
