"""Lightning around a plain detector: clips, losses, schedule and decoded predictions."""

from __future__ import annotations

import math
from typing import Any

import lightning
import torch
from torch import Tensor

from bev_perception.decode import Thresholds, decode
from bev_perception.evaluation.objects import Objects, make_objects
from training.losses import detection_losses
from training.models.detector import Memory, Prediction, empty_memory
from training.models.exported import peaks_of
from training.run import Run, build_detector, run_to_plain

# What networks read of a batch; each batch has some of it (see training.models.detector).
INPUTS = (
    "images", "img_from_ego", "camera_valid", "radar_bev", "radar_points", "radar_counts", "radar_cells",
    "radar_valid", "lidar", "lidar_counts", "virtual", "virtual_counts",
)  # fmt: skip


def inputs_of(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The current frame's network inputs."""
    return {name: batch[name] for name in INPUTS if name in batch}


def recall(detector: Any, batch: dict[str, Tensor]) -> Memory | None:
    """Run the earlier frames of a clip, oldest first, without gradient -> the memory that the current frame reads.

    Frames that no item of the batch has are skipped. None for a network without memory.
    """
    memory = empty_memory(detector.spec, batch["heatmap"], len(batch["heatmap"]))
    if memory is None:
        return None
    for t in range(batch["prev_valid"].shape[1]):
        valid = batch["prev_valid"][:, t : t + 1]
        state = memory.bev
        if valid.any():
            inputs = {n: batch[f"prev.{n}"][:, t] for n in INPUTS if f"prev.{n}" in batch}
            with torch.no_grad():
                state = detector.encode(inputs, memory).float()
        memory = Memory(state, batch["prev_from_curr"][:, t], valid, batch["prev_dt"][:, t : t + 1])
    return memory


class DetectorModule(lightning.LightningModule):
    """Trains a detector on ClipDataset items. The earlier frames' states get no gradient, as in BEVFormer."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.detector = build_detector(run)

    def predict(self, batch: dict[str, Tensor]) -> Prediction:
        prediction: Prediction = self.detector(inputs_of(batch), recall(self.detector, batch))
        return prediction

    def losses(self, prediction: Prediction, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weighted terms; a detector whose output is not a heatmap brings its own."""
        if hasattr(self.detector, "losses"):
            own: dict[str, Tensor] = self.detector.losses(prediction, batch)
            return own
        return detection_losses(prediction, batch, self.detector, self.run.losses)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        losses = self.losses(self.predict(batch), batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            terms = {k: float(v.detach()) for k, v in losses.items()}
            raise FloatingPointError(
                f"loss is not finite at step {self.global_step}: {terms}; train anew with a lower lr or clip_norm"
            )
        self.log_dict({f"train/{k}": v.detach() for k, v in losses.items()}, prog_bar=True)
        self.log("train/total", total.detach())
        return total

    @torch.no_grad()
    def detect_batch(self, batch: dict[str, Tensor], thresholds: Thresholds) -> list[Objects]:
        """Decoded detections of each item, by the runtime's own decode."""
        spec = self.run.spec
        prediction = self.predict(batch)
        prediction.heatmap, prediction.regression = prediction.heatmap.float(), prediction.regression.float()
        found = []
        for row in zip(*(t.cpu().numpy() for t in peaks_of(self.detector, prediction)), strict=True):
            d = decode(dict(zip(("scores", "labels", "cells", "boxes"), row, strict=True)), spec, thresholds)
            found.append(make_objects(d.boxes, d.velocity, d.scores, tuple(spec.classes[i] for i in d.labels)))
        return found

    def configure_optimizers(self) -> Any:
        optim = self.run.optim
        decay = [p for p in self.parameters() if p.ndim > 1]
        rest = [p for p in self.parameters() if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": optim.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=optim.lr)
        warmup, steps = optim.warmup_steps, optim.steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = run_to_plain(self.run)
