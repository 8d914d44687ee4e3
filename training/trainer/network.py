"""A network and the run that it is of: what it predicts of a clip, what it finds, what it is trained for.

All that looks at trained networks works with this. Lightning, which takes seconds to load, is for training alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bev_perception.decode import Thresholds, decode
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.model_spec import ModelSpec
from training.data.clips import POINT_INPUTS
from training.data.config import DataConfig
from training.losses.detection import detection_losses
from training.losses.spread import find_errors, spread_losses
from training.models.detector import Detector, Memory, Prediction, SetDetector, empty_memory
from training.models.exported import MEMORY_INPUTS, candidates_of, spread_of
from training.processes import any_of_all
from training.run import Run, seen_by_network

CANDIDATES = ("scores", "labels", "cells", "boxes")


@dataclass(frozen=True)
class Network:
    """A detector, and the run that says what it is, sees and learns."""

    run: Run
    detector: Detector

    @property
    def spec(self) -> ModelSpec:
        return self.run.spec

    @property
    def data(self) -> DataConfig:
        """What it sees of a data set, without what only its teachers do."""
        return seen_by_network(self.run)

    @property
    def device(self) -> torch.device:
        return next(self.detector.parameters()).device

    def predict(self, batch: dict[str, Tensor]) -> Prediction:
        """Of a batch on the network's device."""
        return predict_clip(self.detector, batch)

    def losses(self, prediction: Prediction, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms; a set detector brings its own. Of a run whose head for the spread learns alone its terms."""
        if isinstance(self.detector, SetDetector):
            return self.detector.losses(prediction, batch)
        spread = self.run.spread
        if spread is None:
            return detection_losses(prediction, batch, self.detector, self.run.losses)
        own = {} if spread.alone else detection_losses(prediction, batch, self.detector, self.run.losses)
        candidates = candidates_of(self.detector, prediction)
        said = spread_of(self.detector, prediction, candidates)
        assert said is not None  # build_detector
        found = find_errors(candidates, batch, self.spec.grid, self.spec.classes)
        return own | spread_losses(said, candidates, found, spread)

    @torch.no_grad()
    def detect_batch(self, batch: dict[str, Tensor], thresholds: Thresholds) -> list[Objects]:
        """Decoded detections of each item, by the runtime's own decode."""
        return self.decoded(self.predict({name: tensor.to(self.device) for name, tensor in batch.items()}), thresholds)

    @torch.no_grad()
    def decoded(self, prediction: Prediction, thresholds: Thresholds) -> list[Objects]:
        """Detections of each item of a prediction, whose maps are float32 afterwards."""
        prediction.heatmap, prediction.regression = prediction.heatmap.float(), prediction.regression.float()
        candidates = [t.cpu().numpy() for t in candidates_of(self.detector, prediction)]
        return [objects_of(dict(zip(CANDIDATES, row)), self.spec, thresholds) for row in zip(*candidates)]


def predict_clip(detector: Detector, batch: dict[str, Tensor]) -> Prediction:
    """A detector's prediction for the current frame of a clip."""
    return detector(inputs_of(batch, detector.spec), recall(detector, batch))


def inputs_of(batch: dict[str, Tensor], spec: ModelSpec) -> dict[str, Tensor]:
    """The current frame's inputs (see training.models.detector): those of the spec, and point clouds for teachers."""
    names = [t.name for t in spec.inputs() if t.name not in MEMORY_INPUTS]
    names += [f"{cloud}{what}" for cloud in POINT_INPUTS for what in ("", "_counts")]
    return {name: batch[name] for name in names if name in batch}


def recall(detector: Detector, batch: dict[str, Tensor]) -> Memory | None:
    """Run the earlier frames of a clip, oldest first, without gradient -> the memory that the current frame reads.

    Frames that no item of the batch has are skipped; in training no item of any process: batch norms of several GPUs
    wait for each other. None for a network without memory.
    """
    memory = empty_memory(detector.spec, batch["heatmap"], len(batch["heatmap"]))
    if memory is None:
        return None
    for t in range(batch["prev_valid"].shape[1] if "prev_valid" in batch else 0):
        valid = batch["prev_valid"][:, t : t + 1]
        state = memory.bev
        if any_of_all(valid) if detector.training else bool(valid.any()):
            earlier = {n.removeprefix("prev."): v[:, t] for n, v in batch.items() if n.startswith("prev.")}
            with torch.no_grad():
                encoded = detector.encode(earlier, memory)
            assert encoded is not None  # the spec has a state
            state = encoded.float()
        memory = Memory(state, batch["prev_from_curr"][:, t], valid, batch["prev_dt"][:, t : t + 1])
    return memory


def objects_of(candidates: dict[str, np.ndarray], spec: ModelSpec, thresholds: Thresholds) -> Objects:
    """One frame's CANDIDATES (ModelSpec.outputs()) -> detections."""
    d = decode(candidates, replace(spec, spread=()), thresholds)
    return make_objects(d.boxes, d.velocity, d.scores, tuple(spec.classes[i] for i in d.labels))
