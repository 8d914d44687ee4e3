"""The proof of a cut: a network without channels answers as the whole one does with those channels at zero."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from training.models.detector import Detector
from training.models.widths import Norm
from training.pruning.dependencies import Group, cut, find_groups
from training.pruning.frames import Frames, answers

TOLERANCE = 1e-4  # of an answer's largest number: sums of fewer terms are rounded otherwise


@dataclass(frozen=True)
class Channels:
    """groups: those that can be cut; fixed: layer -> why it cannot."""

    groups: tuple[Group, ...]
    fixed: Mapping[str, str]


def masked(detector: Detector, groups: Iterable[Group], dropped: Mapping[str, Sequence[int]]) -> Detector:
    """A copy as wide as before in which all that makes a dropped channel makes zero."""
    whole = copy.deepcopy(detector)
    layers = dict(whole.named_modules())
    with torch.no_grad():
        for group in groups:
            for name, indices in group.outputs.items():
                gone = [index for channel in dropped.get(group.name, ()) for index in indices[channel]]
                _zero(layers[name], gone)
    return whole


def _zero(layer: nn.Module, outputs: Sequence[int]) -> None:
    for name in ("weight", "bias"):
        parameter = getattr(layer, name, None)
        if parameter is not None:
            transposed = isinstance(layer, nn.ConvTranspose2d) and name == "weight"
            parameter[(slice(None), outputs) if transposed else outputs] = 0.0


def difference(detector: Detector, other: Detector, frames: Frames) -> float:
    """The largest one between two networks' answers, as a share of the answer's largest number.

    Raises ValueError where their shapes differ.
    """
    with torch.no_grad():
        ours, theirs = answers(detector, frames), answers(other, frames)
    worst = 0.0
    for name, expected in theirs.items():
        if ours[name].shape != expected.shape:
            raise ValueError(f"{name} is {tuple(ours[name].shape)}, expected {tuple(expected.shape)}")
        scale = max(float(expected.abs().max()), 1e-6)
        worst = max(worst, float((ours[name] - expected).abs().max()) / scale)
    return worst


def find_channels(detector: Detector, frames: Frames) -> Channels:
    """What of a detector in eval mode can be cut, each group proven without every second of its channels.

    Raises ImportError where torch-pruning is not installed, ValueError where there is nothing.
    """
    groups, fixed = find_groups(detector, frames)
    if fault_of(detector, frames, groups):
        for group in list(groups):
            if fault := fault_of(detector, frames, [group]):
                groups.remove(group)
                fixed |= {name: fault for name in group.outputs if not isinstance(_layer(detector, name), Norm)}
    if not groups:
        raise ValueError(f"{type(detector).__name__} has no channels that can be cut: {fixed}")
    return Channels(tuple(groups), fixed)


def fault_of(detector: Detector, frames: Frames, groups: Sequence[Group]) -> str:
    """Why the network does not answer right without every second channel of these groups; "" where it does."""
    dropped = {group.name: range(1, group.channels, 2) for group in groups}
    try:
        narrower = cut(detector, frames, groups, dropped)
        found = difference(narrower, masked(detector, groups, dropped), frames)
    except Exception as error:  # sizes that fit nowhere: any part of the network may stumble
        return f"the network does not run without some of its channels ({_first_line(error)})"
    if not found <= TOLERANCE:
        return f"without some of its channels the network answers otherwise than with them at zero ({found:.1e})"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]


def _layer(detector: Detector, name: str) -> nn.Module:
    return dict(detector.named_modules())[name]
