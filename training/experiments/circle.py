"""The shipped student goes on over the drives of a fleet, in minutes: a step of `python -m training.circle`."""

from __future__ import annotations

import dataclasses

from training.experiments import demo_distilled
from training.run import OptimConfig, Run


def student() -> Run:
    """`demo_distilled:student`, shorter, with scenes that are neither flipped nor turned: the teacher sees every sample
    alike and is asked once (--teacher-cache), which halves the time of a step."""
    run = demo_distilled.student()
    still = dataclasses.replace(
        run.data.augmentation, bev_flip_x=0.0, bev_flip_y=0.0, bev_rotation_deg=0.0, bev_scale=(1.0, 1.0)
    )
    data = dataclasses.replace(run.data, augmentation=still)
    optim = OptimConfig(lr=8e-4, warmup_steps=20, steps=160, clip_norm=10.0)
    return dataclasses.replace(run, data=data, optim=optim, checkpoint_every=50)
