"""A tiny run that goes on until it is told to end, or until process 1 finds a file that is no image; test_ddp_ends.py
runs it under torchrun.

python test/ddp_ends.py DATA OUT told|fails
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from typing import Any

from tiny_run import RUN

from training import train
from training.data.clips import ClipDataset
from training.processes import rank_and_world
from training.run import OptimConfig
from training.trainer.lightning_module import DetectorModule

OPTIM = OptimConfig(lr=1e-4, warmup_steps=0, steps=10_000)
SAMPLES = 3  # of four keyframes, one for each process in a step: the next is the second of the second epoch


def main(data: str, out: str, what: str) -> int:
    rank = rank_and_world()[0]
    sample, step = ClipDataset.__getitem__, DetectorModule.training_step
    given: list[Any] = []

    def unreadable(self: ClipDataset, index: Any) -> Any:
        given.append(index)
        if what == "fails" and len(given) > SAMPLES:
            if rank == 1:
                raise ValueError("samples/CAM_FRONT/a.jpg is cut off")
            while not signal.getsignal(signal.SIGTERM).__self__.asked:  # type: ignore[union-attr]
                time.sleep(0.05)  # a sample that takes so long that torchrun has told this process
        return sample(self, index)

    def followed(self: DetectorModule, batch: Any, number: int) -> Any:
        print(f"process {rank} is in step {self.global_step}", flush=True)
        return step(self, batch, number)

    train.load_run = lambda _: dataclasses.replace(RUN, optim=OPTIM, batch_size=2, checkpoint_every=OPTIM.steps)
    ClipDataset.__getitem__, DetectorModule.training_step = unreadable, followed
    status = train.main(["any", "--data", data, "--out", out, "--workers", "0"])
    print(f"process {rank} ends with {status}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
