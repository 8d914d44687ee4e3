"""How many channels a detector's features have, found by running it once on nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from bev_perception.model_spec import ModelSpec
from training.data.virtual_points import VIRTUAL_CHANNELS
from training.models.detector import Detector, empty_memory

MEMORY_PREFIX = "prev_"


def blank_inputs(spec: ModelSpec, device: torch.device) -> dict[str, Tensor]:
    """A batch of one: zeros for all that spec.inputs() names, projections that are identities, one point per cloud."""
    inputs = {
        t.name: torch.zeros(1, *t.shape, dtype=getattr(torch, t.dtype), device=device)
        for t in spec.inputs()
        if not t.name.startswith(MEMORY_PREFIX)
    }
    if "img_from_ego" in inputs:
        inputs["img_from_ego"] = torch.eye(4, device=device).expand_as(inputs["img_from_ego"]).clone()
    one = torch.ones(1, dtype=torch.int64, device=device)
    inputs |= {"lidar": torch.zeros(1, 6, device=device), "lidar_counts": one}
    return inputs | {"virtual": torch.zeros(1, 1 + VIRTUAL_CHANNELS, device=device), "virtual_counts": one}


def feature_channels(detector: Detector) -> dict[str, int]:
    """Name of each of Prediction.features -> its channels. Weights, statistics and every module's mode stay as they
    are: some may be frozen, such as batch norm that keeps its statistics."""
    device = next(detector.parameters()).device
    modes = [(module, module.training) for module in detector.modules()]
    detector.eval()
    try:
        with torch.no_grad():
            inputs = blank_inputs(detector.spec, device)
            prediction = detector(inputs, empty_memory(detector.spec, inputs["lidar"], 1))
    finally:
        for module, training in modes:
            module.training = training
    return {name: feature.shape[1] for name, feature in prediction.features.items()}
