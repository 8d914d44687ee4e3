"""The engine of a bundle, or a checkpoint's network in the place of one: what would be exported, run by torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bev_perception.bundle import Bundle, load_bundle
from bev_perception.frame_proof import open_proven
from bev_perception.inference.interface import InferenceBackend, validate_inputs
from bev_perception.inference.proof import TOLERANCES, self_test
from bev_perception.model_spec import BundleError
from training.models.detector import Detector
from training.models.exported import ExportedDetector
from training.processes import own_device
from training.trainer.checkpoint import load_network


class TorchEngine:
    """An InferenceBackend on the device that the network is on."""

    name = "torch"

    def __init__(self, detector: Detector) -> None:
        self.spec = detector.spec
        self.details = {"version": torch.__version__, "precision": "fp32"}
        self._network = ExportedDetector(detector).eval()
        self._device = next(detector.parameters()).device

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """See InferenceBackend."""
        validate_inputs(inputs, self.spec)
        tensors = [torch.from_numpy(np.array(inputs[t.name])) for t in self.spec.inputs()]
        with torch.inference_mode():
            results = self._network(*(tensor.to(self._device) for tensor in tensors))
        return {t.name: r.cpu().numpy() for t, r in zip(self.spec.outputs(), results, strict=True)}

    def fetch(self, value: Any) -> np.ndarray:
        """See InferenceBackend."""
        return np.asarray(value)

    def interrupt(self) -> None:
        """torch cannot be stopped in an operator."""

    def close(self) -> None:
        """Nothing is held but the network."""


def open_model(model: Path, backend: str, bundle: Bundle | None = None) -> InferenceBackend:
    """A bundle's engine with one thread, proven; of a checkpoint its network in torch. bundle: what was made of the
    checkpoint. Raises what opening raises, and ValueError where the bundle was made of another network."""
    if model.is_dir():
        return open_proven(load_bundle(model), backend, threads=1)[0]
    engine = TorchEngine(load_network(model, own_device()).detector)
    if bundle is not None:
        _require_made_of(engine, model, bundle)
    return engine


def _require_made_of(engine: TorchEngine, checkpoint: Path, bundle: Bundle) -> None:
    """By the bundle's golden sample, as closely as its precision allows: what is said of one network would be written
    beside another."""
    names = [[t.name for t in (*spec.inputs(), *spec.outputs())] for spec in (engine.spec, bundle.spec)]
    if names[0] != names[1]:
        differ = ", ".join(sorted(set(names[0]) ^ set(names[1])))
        raise ValueError(
            f"{bundle.path} and {checkpoint} do not have the same tensors ({differ}); give the bundle alone"
        )
    try:
        self_test(engine, bundle, TOLERANCES[bundle.spec.precision])
    except BundleError as error:
        raise ValueError(f"{bundle.path} was not made of {checkpoint}: {error}; give --bundle its own") from error
