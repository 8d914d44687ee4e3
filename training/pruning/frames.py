"""What a detector answers at the second of two frames, whose memory is its own state of the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bev_perception.model_spec import ModelSpec
from training.bundling.pattern import pattern_inputs
from training.models.detector import Detector, Memory
from training.models.exported import MEMORY_INPUTS
from training.models.spread_head import READS, reads_of, spread_head

Frames = Sequence[dict[str, Tensor]]
DRIVEN_M = 2.0  # from one frame to the next


def two_frames(spec: ModelSpec) -> Frames:
    """Inputs of a detector at two frames, batches of one, without memory."""
    return [
        {n: torch.from_numpy(a)[None] for n, a in pattern_inputs(spec, seed).items() if n not in MEMORY_INPUTS}
        for seed in range(2)
    ]


def answers(detector: Detector, frames: Frames) -> dict[str, Tensor]:
    """Name -> each answer at the last frame, a batch of one: heatmap, regression, aux.*, the spread at every cell; as
    the mode of the detector has it, which gives more of them to training."""
    state: Tensor | None = None
    for inputs in frames[:-1]:
        state = detector.encode(inputs, _memory(state, detector.spec))
    last = detector(frames[-1], _memory(state, detector.spec))
    found = {"heatmap": last.heatmap, "regression": last.regression}
    found |= {f"aux.{name}": tensor for name, tensor in last.aux.items() if not name.startswith(READS)}
    head = spread_head(detector)
    return found if head is None else found | {"spread": head.everywhere(reads_of(last))}


def state_channels(detector: Detector, frames: Frames) -> int:
    """Channels of the state that it makes, whatever its spec says; 0 for none."""
    with torch.no_grad():
        state = detector.encode(frames[0], None)
    return 0 if state is None else state.shape[1]


def _memory(state: Tensor | None, spec: ModelSpec) -> Memory | None:
    if state is None:
        return None
    pose = torch.eye(4)[None].clone()
    pose[:, 0, 3] = DRIVEN_M
    return Memory(state, pose, torch.ones(1, 1), torch.full((1, 1), spec.temporal.interval_s))
