"""Trains a tiny run, and a taught one, and stores what is detected; test_ddp.py runs it alone and under torchrun.

python test/ddp_run.py DATA OUT TEACHER_CHECKPOINT
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from tiny_run import LIDAR, RUN

from training.data.augment import NO_AUGMENTATION
from training.data.source import Source
from training.models import STUDENTS
from training.models.camera_radar import CameraRadarStudent
from training.processes import join_processes, rank_and_world
from training.recipes.distillation import distillbev
from training.run import OptimConfig
from training.train import train
from training.trainer.checkpoint import load_network
from training.trainer.detect import detect
from training.trainer.loading import Batches, open_keyframes
from training.trainer.teaching import Teaching

# Batches of two of four keyframes, twice an epoch; rows of the validation split differ in number between two processes.
DDP_RUN = dataclasses.replace(
    RUN, optim=OptimConfig(lr=1e-4, warmup_steps=0, steps=2, ema=0.9), batch_size=2, validate_every=2, validate_frames=2
)
ROWS = (0, 1, 3)
# The last layer alone: the others' adapters have batch norm, and half a batch is another network for it.
TAUGHT_RUN = dataclasses.replace(
    DDP_RUN,
    validate_every=0,
    data=dataclasses.replace(RUN.data, augmentation=NO_AUGMENTATION, lidar=LIDAR),
    distill=dataclasses.replace(distillbev((("neck", "neck"),), source="centerpoint", inherit=False), pull=0.5),
)


def without_batch_statistics(spec, config):
    """Batch norm of half a batch is another network (on GPUs it is synchronised): here it uses stored statistics."""
    student = CameraRadarStudent(spec, config)
    for module in student.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return student


def run(data: Path, out: Path, teacher: Path) -> None:
    STUDENTS["camera_radar"] = dataclasses.replace(STUDENTS["camera_radar"], module=without_batch_statistics)
    checkpoint = train(DDP_RUN, Source(data), out)
    join_processes()
    network = load_network(checkpoint)
    keyframes = open_keyframes(network.spec, network.data, Source(data), "val")
    found = detect(network, keyframes, ROWS, ["all"], Batches(1, 0))["all"]
    if rank_and_world()[0] == 0:
        np.savez(out / "found.npz", **{str(row): found[row].scores for row in sorted(found)})
    given = {"centerpoint": teacher}
    train(TAUGHT_RUN, Source(data), out / "taught", teaching=Teaching(given, out / "cache"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(*(Path(argument) for argument in sys.argv[1:]))
