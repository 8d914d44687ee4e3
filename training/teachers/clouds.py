"""What the LiDAR teachers share: that they see no images and keep nothing, their pillars' grid, the size of a batch."""

from __future__ import annotations

import dataclasses

from torch import Tensor, nn

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ModelSpec
from training.models.detector import Memory


class LidarDetector(nn.Module):
    """A detector (training.models.detector) without images, so without depth bins, and without a state: it sees ten
    merged sweeps. Raises ValueError for a spec with a state."""

    bins: None = None
    training_only: tuple[str, ...] = ()

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        if spec.temporal.state_channels:
            raise ValueError(
                f"{type(self).__name__} keeps no state between frames, but the spec has temporal.state_channels = "
                f"{spec.temporal.state_channels}; set it to 0"
            )
        self.spec = spec

    def encode(self, inputs: dict[str, Tensor], memory: Memory | None) -> None:
        return None


def pillar_grid(grid: BevGrid, stride: int) -> BevGrid:
    """The grid of pillars of which `stride` make a side of one cell of the head's grid."""
    return dataclasses.replace(grid, step=grid.step / stride)


def batch_size(inputs: dict[str, Tensor]) -> int:
    """How many clouds are joined in inputs["lidar"]; the last of them may be empty, so the points cannot say."""
    return inputs["lidar_counts"].shape[0]
