"""Averaged weights: what is evaluated and exported when a run asks for them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from training.models.detector import Detector

WARMUP = 2000  # steps over which the decay rises


def decay_at(decay: float, step: int) -> float:
    """Decay of the average after `step` steps, near 0 at first: the ramp of YOLOX's ModelEMA (Ge et al., 2021).

    BEVDepth's bevdepth/callbacks/ema.py has the same formula and decay 0.999, but its exps/base_cli.py lets the counter
    begin at samples x epochs, far behind the ramp: the average there moves by 0.001 a step from the first step on.
    With its 10,000 steps that makes no difference at the end; a run of a few hundred would keep its random start.
    """
    return decay * (1 - math.exp(-step / WARMUP))


class Ema(Callback):
    """Keeps average = d average + (1 - d) weights of a module's `detector`, buffers included, float32.

    The checkpoint holds it as `ema`, beside the weights that training goes on with.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.weights: dict[str, Tensor] = {}
        self.steps = 0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        if not self.weights:
            self.weights = {name: value.detach().clone() for name, value in module.detector.state_dict().items()}
        else:
            self.weights = {name: value.to(module.device) for name, value in self.weights.items()}
        self.steps = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.steps:  # gradients were only accumulated
            return
        self.steps = trainer.global_step
        decay = decay_at(self.decay, self.steps)
        for name, value in module.detector.state_dict().items():
            average = self.weights[name]
            if average.is_floating_point():
                average.lerp_(value.detach().to(average), 1 - decay)
            else:
                average.copy_(value)

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        if self.weights:
            checkpoint["ema"] = dict(self.weights)

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        self.weights = dict(checkpoint["ema"])

    @contextmanager
    def used_by(self, detector: Detector) -> Iterator[None]:
        """Within: the detector has the averaged weights."""
        own = {name: value.detach().clone() for name, value in detector.state_dict().items()}
        detector.load_state_dict(self.weights)
        try:
            yield
        finally:
            detector.load_state_dict(own)
