"""What the LiDAR teachers share: the spec they accept, their pillars' grid, the size of a batch."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ModelSpec


def require_stateless(spec: ModelSpec, name: str) -> None:
    """A teacher sees ten merged sweeps: it keeps nothing between frames. Raises ValueError for a spec with a state."""
    if spec.temporal.state_channels:
        raise ValueError(
            f"{name} keeps no state between frames, but the spec has temporal.state_channels = "
            f"{spec.temporal.state_channels}; set it to 0"
        )


def pillar_grid(grid: BevGrid, stride: int) -> BevGrid:
    """The grid of pillars of which `stride` make a side of one cell of the head's grid."""
    return dataclasses.replace(grid, step=grid.step / stride)


def batch_size(inputs: dict[str, Tensor]) -> int:
    """How many clouds are joined in inputs["lidar"]; the last of them may be empty, so the points cannot say."""
    return inputs["lidar_counts"].shape[0]
