"""BEVDepth: depth supervised by LiDAR, two keyframes."""

from __future__ import annotations

import dataclasses

from training.losses.detection import LossConfig
from training.models.bev_encoder import BevDepthEncoderConfig
from training.models.bevdet import BevDepthConfig
from training.models.temporal_fusion import TemporalConfig
from training.recipes import camera
from training.recipes.specs import (
    CAMERAS,
    PAPER_TOP_K,
    SMALL_IMAGE,
    TINY_GRID,
    TINY_IMAGE,
    TINY_LOSSES,
    small_optim,
    spec,
    tiny_optim,
)
from training.run import Run
from training.schedules import OptimConfig

# BEVDepth, bevdepth/exps/nuscenes/base_exp.py: AdamW 2e-4 for a batch of 64, weight decay 1e-7, EMA; a tenth of the
# rate after epochs 19 and 23 of 24.
PAPER_OPTIM = OptimConfig(
    lr=2e-4, weight_decay=1e-7, warmup_steps=0, steps=None, epochs=24, schedule="step",
    milestones=(19 / 24, 23 / 24), clip_norm=5.0, ema=0.999,
)  # fmt: skip
PAPER_LOSSES = LossConfig(velocity=0.5, depth=3.0, depth_form="bce")
# Image resize 0.386 to 0.55 around the 0.44 that evaluation uses.
PAPER_AUGMENTATION = dataclasses.replace(camera.BEVDET_AUGMENTATION, image_scale=(0.877, 1.25))


def r50() -> Run:
    """BEVDepth-R50, 256 x 704, two keyframes, class-balanced, EMA, batch 64 (Li et al., AAAI 2023).

    python -m training.train training.experiments.bevdepth:r50 --data NUSCENES --out runs/bevdepth
    Published on nuScenes val (BEVDepth's repository): 35.9 mAP, 48.0 NDS; without class balance 33.3 and 44.1.
    """
    config = BevDepthConfig()
    facts = spec("bevdepth_r50", cameras=CAMERAS, state=config.camera.context, top_k=PAPER_TOP_K)
    data = dataclasses.replace(camera.paper_data(history=1), augmentation=PAPER_AUGMENTATION)
    return Run("bevdepth", config, facts, PAPER_OPTIM, PAPER_LOSSES, data, batch_size=64)


def small() -> Run:
    """For the synthetic set on two cores."""
    config = BevDepthConfig(
        camera.small_camera(depth=True, refine=True),
        TemporalConfig("concat"),
        BevDepthEncoderConfig(48, (1, 1, 1), 16),
        camera.SMALL_HEAD,
    )
    facts = spec("bevdepth_small", cameras=CAMERAS, state=camera.SMALL_CHANNELS, image=SMALL_IMAGE)
    return Run("bevdepth", config, facts, small_optim(), camera.SMALL_LOSSES, camera.small_data(history=1))


def tiny() -> Run:
    """For tests and training.overfit."""
    config = BevDepthConfig(
        camera.tiny_camera(depth=True, refine=True),
        TemporalConfig("concat"),
        BevDepthEncoderConfig(24, (1, 1, 1), 8),
        camera.TINY_HEAD,
    )
    facts = spec("bevdepth_tiny", grid=TINY_GRID, cameras=CAMERAS, state=camera.TINY_CHANNELS, image=TINY_IMAGE)
    return Run("bevdepth", config, facts, tiny_optim(), TINY_LOSSES, camera.tiny_data(history=1))
