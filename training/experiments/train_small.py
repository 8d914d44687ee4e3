"""A distilled student in minutes: `make train-small`, or by hand as `training.train_small` prints it."""

from __future__ import annotations

import dataclasses

from training.experiments.distillation import family, logits, pulled
from training.experiments.distillbev import taught
from training.experiments.near import SWEEPS
from training.recipes.specs import small_optim
from training.run import Run


def student() -> Run:
    """The study's camera + radar student, taught by CenterPoint's heatmap and boxes, which taught it best
    (docs/distillation.md), in less than half of its steps there. The teacher is shipped: --teacher
    centerpoint=training/checkpoints/centerpoint_near.ckpt. It sees every sample unchanged, so --teacher-cache asks it
    once for each."""
    run = family()["camera_radar"]
    data = dataclasses.replace(run.data, train_scenes=0)
    run = dataclasses.replace(
        run, data=data, optim=small_optim(2e-3, steps=500), validate_every=250, validate_frames=12
    )
    return taught(run, pulled(logits("centerpoint")), sweeps=SWEEPS)
