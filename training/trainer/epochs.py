"""A checkpoint of every epoch, kept beside the last one, and written while training goes on."""

from __future__ import annotations

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.callbacks import Callback


class EpochCheckpoints(Callback):
    """Writes out/epoch<N>.ckpt when the step is done that ends epoch N, from 1; one per epoch of the data set.

    samples: of a step, of all processes; length: samples of an epoch. The step only waits for a copy of the tensors in
    memory, which a thread then writes. Raises the writer's OSError at the next epoch, or when the run ends.
    """

    def __init__(self, out: Path, samples: int, length: int) -> None:
        self.out, self.samples, self.length = out, samples, length
        self.writer = ThreadPoolExecutor(1)
        self.writing: Future[None] | None = None
        self.epoch = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.epoch = self._ended(trainer.global_step)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        epoch = self._ended(trainer.global_step)
        if epoch == self.epoch:
            return
        self.epoch = epoch
        if not trainer.is_global_zero:
            return
        self._wait()
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        copied = copy.deepcopy(move_data_to_device(checkpoint, torch.device("cpu")))  # the next step changes them
        files = trainer.strategy.checkpoint_io
        self.writing = self.writer.submit(files.save_checkpoint, copied, self.out / f"epoch{epoch}.ckpt")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self._wait()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.writer.shutdown(wait=True)  # after an error, too: what was begun is written

    def _ended(self, step: int) -> int:
        """Epochs that have ended when so many steps are done."""
        return step * self.samples // self.length

    def _wait(self) -> None:
        if self.writing is not None:
            self.writing.result()
            self.writing = None
