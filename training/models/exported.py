"""A detector as the vehicle runs it: no batch axis, candidates found in the graph."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from bev_perception.model_spec import HealthSpec, ModelSpec
from training.models.center_head import find_candidates, rectified_scores
from training.models.detector import (
    Candidates,
    Detector,
    Memory,
    Prediction,
    SetDetector,
    empty_memory,
    task_index,
)
from training.models.spread_head import Spread, reads_of, spread_head

MEMORY_INPUTS = ("prev_bev", "prev_from_curr", "prev_valid", "prev_dt")
HEALTH_MAPS = ("lift", "radar", "fused")  # features of the prediction: what cameras gave, what radars gave, and both


def candidates_of(detector: Detector, prediction: Prediction) -> Candidates:
    """What leaves the network: the strongest cells of its heatmap, or a set detector's own."""
    if isinstance(detector, SetDetector):
        return detector.candidates(prediction)
    of_class = task_index(detector.tasks, detector.spec.classes)
    scores = rectified_scores(prediction.heatmap, prediction.aux.get("iou"), of_class)
    return find_candidates(scores, prediction.regression, of_class, detector.spec.top_k)


def spread_of(detector: Detector, prediction: Prediction, candidates: Candidates) -> Spread | None:
    """How far the candidates may be off; None of a network that does not say. Raises ValueError where the head's maps
    are not in the prediction."""
    head = spread_head(detector)
    if head is None:
        return None
    reads = reads_of(prediction)
    if not reads:
        raise ValueError(f"{type(detector).__name__} keeps what its head tells from Prediction.aux: hand it on there")
    return head(reads, candidates, detector.spec.grid)


class ExportedDetector(nn.Module):
    """Arguments are ModelSpec.inputs(), results ModelSpec.outputs(), in that order."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.names = [t.name for t in detector.spec.inputs()]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = dict(zip(self.names, tensors, strict=True))
        if "images" in inputs:
            # TensorRT takes uint8 inputs only into a Cast: float first, then the batch axis.
            inputs["images"] = inputs["images"].float()
        inputs = {name: tensor[None] for name, tensor in inputs.items()}
        memory = Memory(*(inputs.pop(name) for name in MEMORY_INPUTS)) if "prev_bev" in inputs else None
        prediction = self.detector(inputs, memory)
        candidates = candidates_of(self.detector, prediction)
        outputs = [t[0] for t in candidates]
        spread = spread_of(self.detector, prediction, candidates)
        if spread is not None:
            outputs.append(spread.parts()[0])
        if memory is not None:
            assert prediction.state is not None
            outputs.append(prediction.state[0])
        return (*outputs, *health_features(self.detector.spec, prediction))


def health_features(spec: ModelSpec, prediction: Prediction) -> list[Tensor]:
    """What a spec with `health` has in its outputs of one frame: means and deviations of each channel over the features
    of each image (N, 2C), and over the maps of cameras, radars and both (2 C in all)."""
    found = []
    if spec.health.camera_width:
        assert prediction.images is not None
        found.append(_moments(prediction.images[0].float()))
    if spec.health.map_width:
        found.append(torch.cat([_moments(prediction.features[name][0].float()) for name in HEALTH_MAPS]))
    return found


def _moments(features: Tensor) -> Tensor:
    """(..., C, h, w) -> (..., 2 C): means, then deviations."""
    mean, square = features.mean(dim=(-2, -1)), (features * features).mean(dim=(-2, -1))
    return torch.cat([mean, (square - mean * mean).clamp(min=0.0).sqrt()], dim=-1)


def with_health(detector: Detector) -> ModelSpec:
    """Its spec with what the health of sensors is judged by. Raises ValueError for a network that does not give it."""
    spec = detector.spec
    prediction = detector({name: tensor[None] for name, tensor in _empty(spec).items()}, _no_memory(spec))
    if prediction.images is None or not set(HEALTH_MAPS) <= set(prediction.features):
        raise ValueError(
            f"{spec.name} gives no features of images, or not the maps {', '.join(HEALTH_MAPS)}; its forward must "
            "return them (Prediction.images, .features), as camera_radar's does"
        )
    maps = sum(prediction.features[name].shape[1] for name in HEALTH_MAPS)
    return replace(spec, health=HealthSpec(2 * prediction.images.shape[2], 2 * maps))


def _empty(spec: ModelSpec) -> dict[str, Tensor]:
    tensors = {t.name: torch.zeros(t.shape, dtype=getattr(torch, t.dtype)) for t in spec.inputs()}
    return {name: tensor for name, tensor in tensors.items() if name not in MEMORY_INPUTS}


def _no_memory(spec: ModelSpec) -> Memory | None:
    return empty_memory(spec, torch.zeros(1), 1)


def parameters_exported(detector: Detector) -> int:
    """How many parameters the vehicle's graph holds: all but those that only training needs."""
    return sum(p.numel() for name, p in detector.named_parameters() if not name.startswith(detector.training_only))
