"""BEVDet: one frame, six cameras, depth that nothing supervises."""

from __future__ import annotations

from training.losses.detection import LossConfig
from training.models.bevdet import BevDetConfig
from training.models.temporal_fusion import TemporalConfig
from training.recipes import camera
from training.recipes.specs import (
    CAMERAS,
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


def r50() -> Run:
    """BEVDet-R50, 256 x 704, class-balanced, batch 64 (Huang et al., 2021; configs/bevdet/bevdet-r50.py).

    python -m training.train training.experiments.bevdet:r50 --data NUSCENES --out runs/bevdet --backbone resnet50.pth
    Published on nuScenes val: 29.9 mAP, 37.7 NDS.
    """
    facts = spec("bevdet_r50", cameras=CAMERAS, image=camera.BEVDET_IMAGE, nms=SCALED_OVERLAPS)
    return Run(
        "bevdet", BevDetConfig(), facts, camera.BEVDET_OPTIM, LossConfig(), camera.paper_data(), batch_size=64,
        backbone_from=camera.IMAGENET,
    )  # fmt: skip


def small() -> Run:
    """For the synthetic set on two cores."""
    config = BevDetConfig(camera.small_camera(depth=False), TemporalConfig(), camera.SMALL_ENCODER, camera.SMALL_HEAD)
    facts = spec("bevdet_small", cameras=CAMERAS, image=SMALL_IMAGE)
    return Run("bevdet", config, facts, small_optim(), camera.SMALL_LOSSES, camera.small_data())


def tiny() -> Run:
    """For tests and training.overfit."""
    config = BevDetConfig(camera.tiny_camera(depth=False), TemporalConfig(), camera.TINY_ENCODER, camera.TINY_HEAD)
    facts = spec("bevdet_tiny", grid=TINY_GRID, cameras=CAMERAS, image=TINY_IMAGE)
    return Run("bevdet", config, facts, tiny_optim(steps=800), TINY_LOSSES, camera.tiny_data())
