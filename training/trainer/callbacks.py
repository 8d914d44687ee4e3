"""What a training run says while it runs."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.callbacks import Callback


class ProgressLine(Callback):
    """One line every `every` steps: losses, samples per second, time left. samples: of a step, of all processes."""

    def __init__(self, every: int, samples: int) -> None:
        self.every, self.samples = every, samples
        self.started: tuple[int, float] | None = None
        self.step = -1

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step, now = trainer.global_step, time.monotonic()
        if self.started is None:
            self.started = (step, now)
        if step == self.step or step % self.every or step <= self.started[0] or not trainer.is_global_zero:
            return
        self.step = step
        rate = (step - self.started[0]) / (now - self.started[1])
        terms = "  ".join(
            f"{k.removeprefix('train/')} {float(v):.3f}"
            for k, v in trainer.callback_metrics.items()
            if k.startswith("train/")
        )
        left = _duration((trainer.max_steps - step) / rate)
        print(f"step {step}/{trainer.max_steps}  {terms}  {rate * self.samples:.2f} samples/s  {left} left", flush=True)


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
