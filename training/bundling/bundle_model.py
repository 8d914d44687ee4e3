"""A bundle on the samples that checkpoints are scored on, through the engine that the vehicle runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from bev_perception.decode import Thresholds
from bev_perception.evaluation.objects import Objects
from bev_perception.inference.backend import open_backend
from bev_perception.model_spec import Bundle
from training.data.config import DataConfig
from training.trainer.lightning_module import PEAKS, objects_of


class BundleModel:
    """Detects in batches of ClipDataset as DetectorModule does, one item after the other; close() when done.

    history: earlier frames that each sample's memory is built from.
    """

    def __init__(self, bundle: Bundle, backend: str = "onnxruntime", history: int = 1) -> None:
        self.spec = bundle.spec
        self.data = DataConfig(history=history)
        self._engine = open_backend(bundle, backend)
        self._inputs = {t.name: t for t in self.spec.inputs()}

    def detect_batch(self, batch: dict[str, Tensor], thresholds: Thresholds) -> list[Objects]:
        """Decoded detections of each item."""
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        return [
            self._detect({name: array[i] for name, array in arrays.items()}, thresholds)
            for i in range(len(batch["index"]))
        ]

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    def _detect(self, item: dict[str, np.ndarray], thresholds: Thresholds) -> Objects:
        memory: dict[str, Any] = {}
        if "prev_bev" in self._inputs:
            memory = {name: np.zeros(t.shape, np.float32) for name, t in self._inputs.items() if name[:5] == "prev_"}
            memory["prev_from_curr"] = np.eye(4, dtype=np.float32)
            memory["prev_dt"] += self.spec.temporal.interval_s
            for t in range(len(item.get("prev_valid", ()))):
                earlier = {name: item[f"prev.{name}"][t] for name in self._inputs if name[:5] != "prev_"}
                if item["prev_valid"][t] > 0:
                    memory["prev_bev"] = self._infer(earlier | memory)["bev"]
                for name in ("prev_from_curr", "prev_valid", "prev_dt"):
                    memory[name] = item[name][t].reshape(self._inputs[name].shape)
        now = {name: item[name] for name in self._inputs if name not in memory}
        outputs = self._infer(now | memory)
        return objects_of({name: self._engine.fetch(outputs[name]) for name in PEAKS}, self.spec, thresholds)

    def _infer(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return self._engine.infer({name: inputs[name] for name in self._inputs})
