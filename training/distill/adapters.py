"""What stands between a student's feature and a teacher's, and how a student takes over weights of its teacher.

Adapters exist in training only: the student that drives does not know of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.distill.turned_head import frame_of, head_in_ego
from training.models.detector import Detector
from training.models.frame import EGO

ADAPTERS = ("identity", "conv1x1", "upsample_conv1x1", "upsample_3layer")


class Adapter(nn.Module):
    """(B, C_student, X, Y) -> (B, C_teacher, *shape).

    kind: "identity"; "conv1x1", a 1x1 convolution with bias (DistillBEV's pre-head layer); "upsample_conv1x1", the same
    after bilinear resampling; "upsample_3layer", bilinear resampling (align_corners, x4 in the published setting) and
    three times 1x1 convolution, batch norm, ReLU, the last one changing the channels (DistillBEV's backbone layers).
    The ReLU at its end keeps adapted features >= 0, as a teacher's are.
    """

    def __init__(self, kind: str, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        if kind not in ADAPTERS:
            raise ValueError(f"adapter must be one of {ADAPTERS}, found {kind!r}")
        if kind == "identity" and student_channels != teacher_channels:
            raise ValueError(
                f"adapter 'identity' cannot turn {student_channels} channels into {teacher_channels}; take 'conv1x1'"
            )
        self.kind = kind
        self.body: nn.Module = nn.Identity()
        if kind in ("conv1x1", "upsample_conv1x1"):
            self.body = nn.Conv2d(student_channels, teacher_channels, 1)
        elif kind == "upsample_3layer":
            widths = (student_channels, student_channels, student_channels, teacher_channels)
            layers: list[nn.Module] = []
            for before, after in itertools.pairwise(widths):
                layers += [nn.Conv2d(before, after, 1), nn.BatchNorm2d(after), nn.ReLU()]
            self.body = nn.Sequential(*layers)

    def forward(self, feature: Tensor, shape: tuple[int, int]) -> Tensor:
        if self.kind.startswith("upsample") and tuple(feature.shape[2:]) != tuple(shape):
            feature = F.interpolate(feature, size=shape, mode="bilinear", align_corners=True)
        adapted: Tensor = self.body(feature)
        return adapted


class Inherited(NamedTuple):
    """Names of the target's tensors that were overwritten, and of those that were left alone."""

    copied: tuple[str, ...]
    kept: tuple[str, ...]


def copy_weights(
    target: Detector, source: Mapping[str, Tensor], target_prefix: str = "", source_prefix: str = ""
) -> Inherited:
    """Copy every tensor of `source` whose name (less source_prefix) and shape the target has under target_prefix.

    Raises ValueError when nothing fits. RadarDistill starts its student so: the teacher's weights under another prefix.
    """
    own = {name: tensor for name, tensor in target.state_dict().items() if name.startswith(target_prefix)}
    copied, kept = [], []
    for name, tensor in own.items():
        other = source.get(source_prefix + name[len(target_prefix) :])
        if other is not None and other.shape == tensor.shape:
            with torch.no_grad():
                tensor.copy_(other)  # state_dict() shares the module's memory
            copied.append(name)
        else:
            kept.append(name)
    if not copied:
        raise ValueError(
            f"no tensor of the source under {source_prefix!r} fits one of the target under {target_prefix!r}: "
            f"the target has {sorted(own)[:5]}..., the source {sorted(source)[:5]}...; are they of one family and size?"
        )
    return Inherited(tuple(copied), tuple(kept))


def head_prefix(detector: Detector) -> str:
    """Where a detector keeps its head's tensors, "head." or "tail.head.". Raises ValueError when it has no head."""
    names = [name for name, _ in detector.named_modules() if name.split(".")[-1] == "head"]
    if not names:
        raise ValueError(f"{type(detector).__name__} has no submodule named `head`: there is nothing to inherit")
    return min(names, key=len) + "."


def inherit_head(student: Detector, teacher: Detector) -> Inherited:
    """Start the student's head from the teacher's (DistillBEV's head inheritance); the student goes on training it.

    A shared first convolution of other width is left alone, as in the released code. A teacher with a frame of its own
    has its head turned into the ego frame. Raises ValueError when anything behind the first convolution differs: half a
    head is worth nothing.
    """
    own, theirs = head_prefix(student), head_prefix(teacher)
    head = {n.removeprefix(theirs): t for n, t in teacher.state_dict().items() if n.startswith(theirs)}
    if frame_of(teacher) != frame_of(student):
        if frame_of(student) != EGO:
            raise ValueError(
                f"the student computes in {frame_of(student)}, the teacher in {frame_of(teacher)}: give the student "
                "the teacher's frame, or the ego frame"
            )
        head = head_in_ego(head, frame_of(teacher))
    inherited = copy_weights(student, head, own)
    lacking = [name for name in inherited.kept if not name.startswith(f"{own}shared.")]
    if lacking:
        raise ValueError(
            f"the student's head cannot be inherited: the teacher's has other shapes for {lacking[:3]} and "
            f"{len(lacking[3:])} more; give both the same HeadConfig, or pass inherit=False"
        )
    return inherited
