"""Lightning around the plain student: losses, schedule and decoded predictions."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor

from bev_perception.decode import Thresholds, decode
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.model_spec import ModelSpec
from training.data.clips import SENSOR_INPUTS
from training.losses import box_loss, depth_loss, heatmap_loss, semantic_loss
from training.models.camera_radar import CameraRadarStudent, StudentConfig
from training.models.center_head import find_peaks


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay to zero over `steps`; auxiliary losses' weights."""

    lr: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    steps: int = 1000
    clip_norm: float = 35.0
    depth_weight: float = 0.3
    semantic_weight: float = 0.3


class StudentModule(lightning.LightningModule):
    """Trains a student on ClipDataset items. The earlier frame's state gets no gradient, as in BEVFormer."""

    def __init__(self, spec: ModelSpec, config: StudentConfig, optim: OptimConfig) -> None:
        super().__init__()
        self.spec, self.optim = spec, optim
        self.student = CameraRadarStudent(spec, config)

    def predict_heads(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Heatmap logits, regression, auxiliary logits. The earlier frame is skipped if no item has one."""
        prev: Tensor | None = None
        if batch["prev_valid"].any():
            with torch.no_grad():
                prev, _ = self.student.bev_state(*(batch[f"prev.{name}"] for name in SENSOR_INPUTS))
        state, aux = self.student.bev_state(*(batch[name] for name in SENSOR_INPUTS))
        if prev is None:
            prev = torch.zeros_like(state)
        heatmap, regression = self.student.detect(
            state, prev.float(), batch["prev_from_curr"], batch["prev_valid"], batch["prev_dt"]
        )
        return heatmap, regression, aux

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        heatmap, regression, aux = self.predict_heads(batch)
        valid = batch["camera_valid"]
        losses = {
            "heatmap": heatmap_loss(heatmap, batch["heatmap"]),
            "box": box_loss(regression, batch["cells"], batch["boxes"], batch["mask"]),
            "depth": self.optim.depth_weight
            * depth_loss(aux["depth"], batch["depth"], valid, self.student.config.bins),
            "semantic": self.optim.semantic_weight * semantic_loss(aux["semantic"], batch["semantic"], valid),
        }
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
        heatmap, regression, _ = self.predict_heads(batch)
        peaks = [
            t.float() if t.is_floating_point() else t
            for t in find_peaks(heatmap.float(), regression.float(), self.spec.top_k)
        ]
        found = []
        for row in zip(*(t.cpu().numpy() for t in peaks), strict=True):
            d = decode(dict(zip(("scores", "labels", "cells", "boxes"), row, strict=True)), self.spec, thresholds)
            found.append(make_objects(d.boxes, d.velocity, d.scores, tuple(self.spec.classes[i] for i in d.labels)))
        return found

    def configure_optimizers(self) -> Any:
        decay = [p for p in self.parameters() if p.ndim > 1]
        rest = [p for p in self.parameters() if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": self.optim.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.optim.lr)
        warmup, steps = self.optim.warmup_steps, self.optim.steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["spec"] = self.spec.to_json()
        checkpoint["student_config"] = dataclasses.asdict(self.student.config)
        checkpoint["optim_config"] = dataclasses.asdict(self.optim)
