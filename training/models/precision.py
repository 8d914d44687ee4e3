"""Mixed precision is for features; where they are read from is computed in single precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def is_shape_alone(tensor: Tensor) -> bool:
    """A tensor of the meta device has no numbers: networks run on it to tell shapes and to count multiplications."""
    return tensor.device.type == "meta"


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Within: no autocast on the tensor's device."""
    return nullcontext() if is_shape_alone(like) else torch.autocast(like.device.type, enabled=False)
