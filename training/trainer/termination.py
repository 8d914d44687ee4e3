"""SIGTERM, by which schedulers take a machine back: the run saves, says so and ends with an exit status of its own."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from training.command_line import Preempted
from training.processes import any_of_all


class Termination(Callback):
    """Between two steps after a SIGTERM to any process of the run: save `last` and raise Preempted in all of them.

    A step that has begun is finished first, and a validation that follows it, so that the run goes on exactly as if it
    had not been stopped. Give it to the trainer after all that changes at the end of a step. It replaces Lightning's
    own handler, in which processes wait for each other wherever each of them is.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self.asked = False
        self.step = -1
        self.before: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.step = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: Any) -> None:
        if not self.asked:
            os.write(2, b"SIGTERM: saving after this step\n")  # print is not safe in a handler
        self.asked = True

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:  # gradients were only accumulated
            return
        self.step = trainer.global_step
        if self.step >= trainer.max_steps or not any_of_all(torch.tensor([self.asked], device=pl_module.device)):
            return
        trainer.save_checkpoint(self.last)
        raise Preempted(f"SIGTERM: saved {self.last} of step {self.step}; the same command goes on from there")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)
            self.before = None


def outlive_sigterm(worker: int) -> None:
    """In a loader process: a SIGTERM to all processes of a job is the main process's business while that waits for one;
    it saves, and ends its loaders. Otherwise it ends this process, as it does without this."""
    main = os.getppid()

    def note(number: int, frame: Any) -> None:
        if not catches_sigterm(main):
            os._exit(0)

    signal.signal(signal.SIGTERM, note)


def catches_sigterm(process: int) -> bool:
    """Whether a process has a handler for it (Linux); False where it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)
