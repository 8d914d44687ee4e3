"""What is done with the tensors of a layer whose inputs or outputs mean something else than ours: exact, in float64.

Published networks see x to the right and y ahead; in the mirrored frame (training.models.frame) ours see ahead and
right. So every pair of x and y changes places, in the points' columns as in the boxes' channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bev_perception.model_spec import PILLAR_COLUMNS

Change = Callable[[Tensor], Tensor]

# Columns of a decorated point in PillarEncoder and RadarPillars.
DECORATION = ("x-mean", "y-mean", "z-mean", "x-centre", "y-centre", "z-centre")
LIDAR_COLUMNS = ("x", "y", "z", "intensity", "age", *DECORATION)
RADAR_COLUMNS = (*PILLAR_COLUMNS, *DECORATION)

# A column of theirs: ours that it is made of, times a factor, plus an offset.
Column = tuple[str, float, float]


def same(*names: str) -> tuple[Column, ...]:
    """Columns of theirs that are columns of ours."""
    return tuple((name, 1.0, 0.0) for name in names)


def point_layer(linear: Tensor, mean: Tensor, theirs: Sequence[Column], ours: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Weight (out, theirs) and the running mean behind it (out,) -> weight (out, ours) and mean of the same function.

    An offset is a constant before the norm, so it goes into the mean. Raises ValueError for a weight of other columns.
    """
    if linear.ndim != 2 or linear.shape[1] != len(theirs):
        raise ValueError(
            f"the points' first layer has a weight of {tuple(linear.shape)}, expected {len(theirs)} columns: "
            f"{', '.join(name for name, _, _ in theirs)}; the file is of another configuration"
        )
    weight, centre = linear.new_zeros(len(linear), len(ours), dtype=torch.float64), mean.double()
    for column, (name, factor, offset) in zip(linear.double().unbind(dim=1), theirs):
        weight[:, ours.index(name)] += factor * column
        centre = centre - offset * column
    return weight.float(), centre.float()


def _exchanged(tensor: Tensor) -> Tensor:
    """The first two output channels change places."""
    return tensor[[1, 0, *range(2, len(tensor))]]


# Output channels of the last convolution of a branch (rows of its weight and bias), by our name of the branch.
# det3d (CenterPoint) and mmdet3d (BEVDet) before 1.0: sizes w, l, h; sine and cosine of r = -yaw - pi / 2 in a frame
# with x to the right, which is the angle in the mirrored frame less half a turn.
BOXES_MMDET3D: dict[str, Change] = {"reg": _exchanged, "dim": _exchanged, "rot": torch.neg, "vel": _exchanged}
# OpenPCDet: sizes l, w, h; (cos, sin) of the yaw with x to the right, which are (sin, cos) in the mirrored frame.
BOXES_OPENPCDET: dict[str, Change] = {"reg": _exchanged, "vel": _exchanged}


def box_changes(last: Mapping[str, str], boxes: Mapping[str, Change]) -> dict[str, Change]:
    """last: name of a branch of ours -> their last convolution in it -> Table.changed."""
    return {
        f"{last[branch]}.{part}": change
        for branch, change in boxes.items()
        if branch in last
        for part in ("weight", "bias")
    }
