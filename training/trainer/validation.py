"""Scores and pictures of held-out keyframes during training; the best checkpoint is kept."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback

from bev_perception.evaluation.draw import draw_frame
from bev_perception.evaluation.metrics import Scores
from bev_perception.evaluation.objects import Objects
from training.data.nuscenes import Keyframe
from training.data.sensor_frame import sensor_frame
from training.run import Run
from training.scoring import ground_truth, score_found
from training.trainer.detect import detect
from training.trainer.ema import Ema
from training.trainer.loading import Batches

PICTURES = 3


class Validation(Callback):
    """Every run.validate_every steps: official scores of run.validate_frames keyframes, evenly chosen.

    They are logged as val/...; pictures go to out/pictures, the checkpoint of the highest NDS to out/best.ckpt. The
    averaged weights are used where there are any. Give it to the trainer after `ema`.
    """

    def __init__(self, keyframes: Sequence[Keyframe], run: Run, out: Path, ema: Ema | None, workers: int = 0) -> None:
        self.keyframes, self.run, self.out, self.ema = keyframes, run, out, ema
        self.batches = Batches(run.batch_size, workers)
        count = min(run.validate_frames, len(keyframes))
        self.rows = [round(i) for i in np.linspace(0, len(keyframes) - 1, count)]
        self.best, self.step = -1.0, 0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:  # gradients were only accumulated
            return
        self.step = trainer.global_step
        if self.step % self.run.validate_every and self.step != trainer.max_steps:
            return
        scores = self._validate(trainer, module)
        values = {"mAP": scores.mean_ap, "NDS": scores.nds, "mAVE": scores.errors.ave, "mATE": scores.errors.ate}
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{name}": value for name, value in values.items()}, self.step)
        better = scores.nds > self.best
        if trainer.is_global_zero:
            numbers = "  ".join(f"{name} {value:.3f}" for name, value in values.items())
            print(f"validation at step {self.step}: {numbers}{'  (best)' if better else ''}", flush=True)
        if better:
            self.best = scores.nds
            trainer.save_checkpoint(self.out / "best.ckpt", weights_only=False)

    def _validate(self, trainer: Any, module: Any) -> Scores:
        modes = {name: part.training for name, part in module.named_modules()}
        module.eval()
        with torch.no_grad(), self.ema.used_by(module.detector) if self.ema else nullcontext():
            found = detect(module.network, self.keyframes, self.rows, ["all"], self.batches)["all"]
        for name, part in module.named_modules():
            part.training = modes[name]
        if trainer.is_global_zero:
            for row in self.rows[:: max(1, len(self.rows) // PICTURES)][:PICTURES]:
                self._draw(row, found[row])
        return score_found(self.keyframes, self.run.spec, found, self.rows)

    def _draw(self, row: int, found: Objects) -> None:
        keyframe, spec = self.keyframes[row], self.run.spec
        least = np.array([spec.score_threshold[name] for name in found.names])
        picture = draw_frame(
            sensor_frame(keyframe, spec), spec, found.select(found.scores >= least), ground_truth(keyframe, spec)
        )
        folder = self.out / "pictures"
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"step{self.step:07d}_{row}.jpg"), picture)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
