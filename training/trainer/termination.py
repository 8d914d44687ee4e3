"""SIGTERM, by which schedulers take a machine back, and Ctrl-C: the run saves, says so, and its exit status tells."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback

from training.command_line import Interrupted, Preempted
from training.processes import mean_over_processes, rank_and_world

# Signal -> how it is called, and what is raised when the run has saved.
ENDS: dict[int, tuple[str, type[Exception]]] = {
    signal.SIGTERM: ("SIGTERM", Preempted),
    signal.SIGINT: ("Ctrl-C", Interrupted),
}
APART_S = 1.0  # less than this apart, two Ctrl-C are one: of the terminal, and passed on by what began this program


class AtOnce(BaseException):
    """A second Ctrl-C. No KeyboardInterrupt, of which Lightning makes the exit status 1."""


class Termination(Callback):
    """Between two steps after a SIGTERM to any process of the run: save `last` and raise Preempted in all of them;
    after a Ctrl-C Interrupted.

    A step that has begun is finished first, and a validation that follows it, so that the run goes on exactly as if it
    had not been stopped. Give it to the trainer after all that changes at the end of a step. It replaces Lightning's
    own handler, in which processes wait for each other wherever each of them is. Ctrl-C is minded in its `with`, which
    is to stand around all that Lightning does; a second one raises AtOnce there.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self.asked = 0  # the first signal of ENDS that came, and when
        self.since = 0.0
        self.step = -1
        self.before: dict[int, Any] = {}

    def __enter__(self) -> None:
        self._mind(signal.SIGINT)

    def __exit__(self, *error: object) -> None:
        self._leave(signal.SIGINT)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.step = trainer.global_step
        self._mind(signal.SIGTERM)

    def _mind(self, number: int) -> None:
        if threading.current_thread() is threading.main_thread():
            self.before[number] = signal.signal(number, self._note)

    def _leave(self, number: int) -> None:
        if number in self.before:
            signal.signal(number, self.before.pop(number))

    def _note(self, number: int, frame: Any) -> None:
        if not self.asked:
            self.asked, self.since = number, time.monotonic()
            again = "; once more ends without saving" if number == signal.SIGINT else ""
            # torchrun sends the same signal where another has failed; then the end of this step cannot be agreed on.
            unless = ", unless another process has failed" if rank_and_world()[1] > 1 else ""
            text = f"{ENDS[number][0]}: saving after this step{unless}{again}\n"
            os.write(2, text.encode())  # print is not safe in a handler
        elif number == signal.SIGINT and time.monotonic() - self.since > APART_S:
            raise AtOnce

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:  # gradients were only accumulated
            return
        self.step = trainer.global_step
        if self.step >= trainer.max_steps:
            return
        asked = torch.tensor([float(self.asked == number) for number in ENDS], device=pl_module.device)
        ends = [end for end, by_any in zip(ENDS.values(), mean_over_processes(asked).tolist()) if by_any]
        if ends:
            name, stop = ends[0]
            trainer.save_checkpoint(self.last, weights_only=False)
            raise stop(f"{name}: saved {self.last} of step {self.step}; the same command goes on from there")

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._leave(signal.SIGTERM)
