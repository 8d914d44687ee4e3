"""Very small runs on the tiny data set, shared by the tests of training, evaluation and export."""

from __future__ import annotations

import dataclasses

from tiny_networks import CONFIGS

from bev_perception.grid import BevGrid
from bev_perception.model_spec import CLASSES, ImageSpec, ModelSpec, TemporalSpec
from training.data.augment import NO_AUGMENTATION, Augmentation
from training.data.config import DataConfig
from training.experiments.demo import CAMERAS, RADARS
from training.losses.detection import LossConfig
from training.models.camera_radar import StudentConfig
from training.models.view.depth_bins import DepthBins
from training.recipes.specs import lidar_over
from training.run import OptimConfig, Run

VERSION = "v1.0-trainval"
SPEC = ModelSpec(
    "tiny", CAMERAS, RADARS, dict.fromkeys(CLASSES, 0.1), dict.fromkeys(CLASSES, 0.5), image=ImageSpec(64, 128),
    grid=BevGrid(-51.2, 51.2, -51.2, 51.2, 1.6), temporal=TemporalSpec(state_channels=8), top_k=100,
)  # fmt: skip
SIZES = StudentConfig((1, 1, 1, 1), 8, 16, 8, 16, 16, DepthBins(1.0, 2.0, 24), 8)
LOSSES = LossConfig(velocity=1.0, velocity_beta=5.0, depth=0.3, depth_form="cross_entropy")
# Batches of three from four keyframes: the second checkpoint lies in the middle of a shuffle.
RUN = Run(
    "camera_radar", SIZES, SPEC, OptimConfig(steps=4, warmup_steps=1), LOSSES, DataConfig(Augmentation()), 3,
    precision="32-true", checkpoint_every=2,
)  # fmt: skip
LIDAR = lidar_over(SPEC.grid)
POINTS = DataConfig(NO_AUGMENTATION, history=0, lidar=LIDAR)


def points_run(model: str) -> Run:
    """A LiDAR network of two steps over the same range, to teach with."""
    spec = dataclasses.replace(
        SPEC, name=model, cameras=(), radars=(), temporal=dataclasses.replace(SPEC.temporal, state_channels=0)
    )
    optim = OptimConfig(steps=2, warmup_steps=1)
    return Run(model, CONFIGS[model], spec, optim, data=POINTS, batch_size=2, precision="32-true", checkpoint_every=2)
