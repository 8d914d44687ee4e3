"""The one definition of depth bins, shared by the view transforms, their supervision and the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DepthBins:
    """Uniform bins: bin b covers [start + b * step, start + (b + 1) * step) metres along the optical axis."""

    start: float = 1.0
    step: float = 1.0
    count: int = 56

    @property
    def end(self) -> float:
        return self.start + self.step * self.count
