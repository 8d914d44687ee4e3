"""The compact camera + radar student, at the sizes of the study; the shipped bundle's runs are in demo.py."""

from __future__ import annotations

import dataclasses

from training.experiments import demo
from training.models.camera_radar import StudentConfig
from training.recipes import camera
from training.recipes.specs import (
    CAMERAS,
    RADARS,
    TINY_GRID,
    TINY_IMAGE,
    TINY_LOSSES,
    small_optim,
    spec,
    tiny_optim,
)
from training.run import Run


def small() -> Run:
    """The demo student as it is, for as many steps as its rivals."""
    return dataclasses.replace(demo.full(), optim=small_optim())


def tiny() -> Run:
    """For tests and training.overfit."""
    config = StudentConfig((1, 1, 1, 1), 16, 32, 16, 24, 32, camera.TINY_BINS, camera.TINY_CHANNELS)
    facts = spec(
        "camera_radar_tiny",
        grid=TINY_GRID,
        cameras=CAMERAS,
        radars=RADARS,
        state=camera.TINY_CHANNELS,
        image=TINY_IMAGE,
    )
    return Run("camera_radar", config, facts, tiny_optim(), TINY_LOSSES, camera.tiny_data(history=1))
