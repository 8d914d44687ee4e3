"""What a training run says while it runs, and how it goes on from a checkpoint."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch.callbacks import Callback

from training.processes import check_same_step


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


class Stopwatch(Callback):
    """Seconds of training, those before a resumption included; kept in the checkpoint."""

    def __init__(self) -> None:
        self.before = 0.0
        self.started = time.monotonic()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.before + time.monotonic() - self.started}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["seconds"]


class Resumption(Callback):
    """All processes go on from the same step, and with the batch that follows it.

    step: where this process goes on, 0 at the start of a run; begun: whether everything was restored. Raises
    ValueError, in all of them, when they differ.
    """

    def __init__(self, step: int) -> None:
        self.step = step
        self.begun = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.begun = True

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        check_same_step(self.step)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Lightning counts batches, and steps when the count is a multiple of accumulate: count those that the steps
        until now would have had."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        absent = checkpoint["global_step"] * trainer.accumulate_grad_batches - progress["current"]["ready"]
        for counts in (progress["total"], progress["current"]):
            for name in counts:
                counts[name] += absent
