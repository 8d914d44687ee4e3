r"""The shipped student goes on, taught by a LiDAR network of the same range: see the bundle's card.

    python -m training.world nuscenes DATA --scenes 96 --seed 0 --duration 10 --scale 0.22 \
        --camera-hz 2 --lidar-hz 10 --radar-hz 13 --workers 2
    python -m training.train training.experiments.demo_distilled:teacher --data DATA --out runs/demo_teacher \
        --init training/checkpoints/centerpoint_near.ckpt
    python -m training.train training.experiments.demo_distilled:student --data DATA --out runs/demo_taught \
        --init BEFORE --teacher centerpoint=runs/demo_teacher/last.ckpt
    python -m training.average BEFORE runs/demo_taught/last.ckpt --half --out training/checkpoints/demo_start.ckpt

BEFORE was the student of that time; today training/checkpoints/demo_start.ckpt or one of your own
(docs/lab_notes/shipped_student.md). Without a teacher the same is `demo:finetune` with --set optim.steps=1500.
"""

from __future__ import annotations

import dataclasses

from training.experiments import centerpoint, demo
from training.experiments.distillation import logits, pulled
from training.experiments.distillbev import taught
from training.recipes.specs import GRID, lidar_over, small_optim
from training.run import Run

# As many as the study's teachers see, so that the demo's can start as one of them.
SWEEPS = dataclasses.replace(lidar_over(GRID), sweeps=4)


def teacher() -> Run:
    """The study's CenterPoint (`near`) goes on over the demo's range, which has four times its area; velocity counts
    fully and smoothly (docs/lab_notes/velocity.md)."""
    run = centerpoint.small()
    losses = dataclasses.replace(run.losses, velocity=1.0, velocity_beta=5.0)
    data = dataclasses.replace(run.data, lidar=SWEEPS)
    return dataclasses.replace(run, data=data, losses=losses, optim=small_optim(1e-3, steps=1500))


def full() -> Run:
    """`demo:full` taught from its first step on, four clips in ten without radars so that cameras have to learn
    (docs/lab_notes/shipped_student.md)."""
    run = demo.full()
    augmentation = dataclasses.replace(run.data.augmentation, drop_all_radars=0.4)
    data = dataclasses.replace(run.data, augmentation=augmentation)
    optim = dataclasses.replace(run.optim, steps=8000)
    return taught(dataclasses.replace(run, data=data, optim=optim), pulled(logits("centerpoint")), sweeps=SWEEPS)


def student() -> Run:
    """`demo:finetune` with what taught the compact student best on the study's holdout: the teacher's heatmap and boxes
    (docs/distillation.md), in fewer steps. Scenes are flipped and turned, so the teacher runs at every step."""
    run = demo.finetune()
    run = dataclasses.replace(run, optim=dataclasses.replace(run.optim, steps=1500))
    return taught(run, pulled(logits("centerpoint")), sweeps=SWEEPS)
