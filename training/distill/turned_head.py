"""A head that was trained in a frame of its own (training.models.frame), for a student in the ego frame."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from training.models.detector import Detector
from training.models.frame import EGO, Frame


def frame_of(detector: Detector) -> Frame:
    """What a detector computes in; the ego frame where its config has no choice."""
    frame: Frame = getattr(getattr(detector, "config", None), "frame", EGO)
    return frame


def head_in_ego(head: Mapping[str, Tensor], frame: Frame) -> dict[str, Tensor]:
    """Tensors of a CenterHead by their names below it -> those of a head that says the same of mirrored maps, boxes in
    the ego frame.

    A head's convolutions have stride 1, so a mirrored kernel on a mirrored map is exact. The frame's pitch is left out:
    heights are off by its slope, which a head learns.
    """
    turned = {name: tensor.clone() for name, tensor in head.items()}
    if frame.mirrored:
        turned = {name: tensor.flip(-1) if tensor.ndim == 4 else tensor for name, tensor in turned.items()}
    for name, tensor in turned.items():
        *_, branch, layer, kind = ("", "", *name.split("."))[-4:]
        if layer != "1" or kind not in ("weight", "bias"):  # of a branch's last convolution
            continue
        if branch == "height" and kind == "bias":
            tensor += frame.origin[2]
        for mirrored, channel in (("reg", 1), ("rot", 0), ("vel", 1)):
            if frame.mirrored and branch == mirrored:
                tensor[channel] *= -1  # to the left what was to the right
                if branch == "reg" and kind == "bias":
                    tensor[channel] += 1  # from the cell's other edge
    return turned
