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

PAPER_OPTIM = dataclasses.replace(camera.BEVDET_OPTIM, epochs=20, ema=0.999)
PAPER_LOSSES = LossConfig(velocity=1.0, depth=3.0, depth_form="bce", foreground=1.0)


def r50() -> Run:
    """FB-BEV-R50, 256 x 704, 16 earlier maps, 20 epochs, batch 64 (Li et al., ICCV 2023).

    python -m training.train training.experiments.fbbev:r50 --data NUSCENES --out runs/fbbev
    FB-BEV's repository ships occupancy settings only (fbocc-r50-cbgs_depth_16f_16x4_20e): backbone, history, epochs,
    batch and class balance are theirs, grid and depth bins BEVDepth's, the rest of the optimiser BEVDet's. Clips fill
    eight of the 16 maps; the originals stream whole drives.
    """
    config = FbBevConfig()
    state = state_channels(config.temporal, config.camera.context)
    facts = spec("fbbev_r50", cameras=CAMERAS, state=state, top_k=PAPER_TOP_K)
    return Run("fbbev", config, facts, PAPER_OPTIM, PAPER_LOSSES, camera.paper_data(history=8), batch_size=64)


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
