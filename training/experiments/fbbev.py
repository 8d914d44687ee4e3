"""FB-BEV: forward and backward projection with a long history."""

from __future__ import annotations

import dataclasses

from training.experiments.bevformer import SMALL_HEIGHTS
from training.losses.detection import LossConfig
from training.models.fbbev import BackwardConfig, FbBevConfig
from training.models.temporal_fusion import TemporalConfig, state_channels
from training.recipes import camera
from training.recipes.specs import (
    CAMERAS,
    PAPER_IMAGE,
    SCALED_OVERLAPS,
    SMALL_IMAGE,
    TINY_GRID,
    TINY_IMAGE,
    TINY_LOSSES,
    small_optim,
    spec,
    tiny_optim,
)
from training.run import Run

# fbocc-r50-cbgs_depth_16f_16x4_20e.py: BEVDet's, but for the clip and a rate that does not fall.
PAPER_OPTIM = dataclasses.replace(
    camera.BEVDET_OPTIM, warmup_steps=200, epochs=20, milestones=(), clip_norm=5.0, ema=0.999
)
PAPER_AUGMENTATION = dataclasses.replace(
    camera.scaled(camera.BEVDET_AUGMENTATION, PAPER_IMAGE, 0.38, 0.55), bev_scale=(1.0, 1.0)
)
PAPER_LOSSES = LossConfig(velocity=1.0, depth=3.0, depth_form="bce", foreground=1.0)


def r50() -> Run:
    """FB-BEV-R50, 256 x 704, 16 earlier maps, 20 epochs, batch 64 (Li et al., ICCV 2023).

    python -m training.train training.experiments.fbbev:r50 --data NUSCENES --out runs/fbbev --backbone resnet50.pth
    FB-BEV's repository ships occupancy settings only (fbocc-r50-cbgs_depth_16f_16x4_20e): backbone, history, optimiser
    and augmentation are theirs, grid, depth bins, head and its losses BEVDepth's. Clips fill eight of the 16 maps and
    are class-balanced; the originals stream whole drives, for as many steps. They start from a backbone that was
    trained to predict depth: `--backbone runs/bevdepth/last.ckpt` is the like of it here.
    """
    config = FbBevConfig()
    state = state_channels(config.temporal, config.camera.context)
    facts = spec("fbbev_r50", cameras=CAMERAS, state=state, nms=SCALED_OVERLAPS)
    data = dataclasses.replace(camera.paper_data(history=8), augmentation=PAPER_AUGMENTATION)
    return Run("fbbev", config, facts, PAPER_OPTIM, PAPER_LOSSES, data, batch_size=64, backbone_from=camera.IMAGENET)


def small() -> Run:
    """For the synthetic set on two cores: the other small students' single earlier frame, so that they compare."""
    config = FbBevConfig(
        camera.small_camera(depth=True),
        BackwardConfig(4, 4, 96, 0.0, SMALL_HEIGHTS),
        TemporalConfig("concat"),
        camera.SMALL_ENCODER,
        camera.SMALL_HEAD,
    )
    facts = spec("fbbev_small", cameras=CAMERAS, state=camera.SMALL_CHANNELS, image=SMALL_IMAGE)
    return Run("fbbev", config, facts, small_optim(), camera.SMALL_LOSSES, camera.small_data(history=1))


def tiny() -> Run:
    """For tests and training.overfit."""
    config = FbBevConfig(
        camera.tiny_camera(depth=True),
        BackwardConfig(4, 2, 48, 0.0, SMALL_HEIGHTS[1::2]),
        TemporalConfig("concat"),
        camera.TINY_ENCODER,
        camera.TINY_HEAD,
    )
    facts = spec("fbbev_tiny", grid=TINY_GRID, cameras=CAMERAS, state=camera.TINY_CHANNELS, image=TINY_IMAGE)
    return Run("fbbev", config, facts, tiny_optim(steps=600), TINY_LOSSES, camera.tiny_data(history=1))
