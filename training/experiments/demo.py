"""The shipped demo student: camera + radar + temporal fusion on synthetic drives."""

from __future__ import annotations

from bev_perception.model_spec import ModelSpec
from training.data.augment import Augmentation
from training.data.config import DataConfig
from training.losses.detection import LossConfig
from training.models.camera_radar import StudentConfig
from training.recipes.specs import CAMERAS, RADARS, SMALL_IMAGE, spec
from training.run import OptimConfig, Run

# Velocity counts fully and smoothly: the run is short, and most objects stand (docs/lab_notes/velocity.md).
LOSSES = LossConfig(velocity=1.0, velocity_beta=5.0, depth=0.3, depth_form="cross_entropy", semantic=0.3)
# Earlier frames are half a second old, one in five a second.
DATA = DataConfig(Augmentation(drop_all_radars=0.3), history=1, interval=(0.35, 0.85))


def demo_spec() -> ModelSpec:
    """Facts of the demo student."""
    return spec("demo_camera_radar", cameras=CAMERAS, radars=RADARS, state=64, image=SMALL_IMAGE)


def full() -> Run:
    """The shipped bundle: see bev_perception/bundles/demo/MODEL_CARD.md for command, duration and scores."""
    optim = OptimConfig(lr=1.2e-3, steps=2600, clip_norm=10.0)
    return Run("camera_radar", StudentConfig(), demo_spec(), optim, LOSSES, DATA)


def finetune() -> Run:
    """The last part of the shipped bundle's training: `--init` an earlier checkpoint of `full`, or the shipped student
    itself, training/checkpoints/demo_start.ckpt."""
    optim = OptimConfig(lr=8e-4, warmup_steps=50, steps=2000, clip_norm=10.0)
    return Run("camera_radar", StudentConfig(), demo_spec(), optim, LOSSES, DATA, seed=2)


def tiny() -> Run:
    """A few steps of the same network, for tests."""
    optim = OptimConfig(steps=4, warmup_steps=1)
    return Run("camera_radar", StudentConfig(), demo_spec(), optim, LOSSES, DATA, batch_size=2)
