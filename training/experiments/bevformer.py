"""BEVFormer: attention from BEV queries into images and the earlier BEV map."""

from __future__ import annotations

import dataclasses

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ImageSpec
from training.data.augment import NO_AUGMENTATION
from training.data.config import DataConfig
from training.losses.detection import LossConfig
from training.models.bevformer import BevFormerConfig
from training.models.image_branch import ImageConfig
from training.recipes import camera
from training.recipes.specs import (
    CAMERAS,
    CIRCLES,
    PAPER_IMAGE,
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

BASE_IMAGE = ImageSpec(928, 1600)  # 900 rows and padding to a multiple of 32
BASE_GRID = BevGrid(step=0.512)
SMALL_HEIGHTS = (0.2, 0.9, 1.7, 2.8)
# BEVFormer, projects/configs/bevformer/bevformer_base.py: AdamW 2e-4, backbone a tenth, cosine to 1e-3 of it.
PAPER_OPTIM = OptimConfig(
    lr=2e-4, weight_decay=0.01, decay_norms=True, warmup_steps=500, warmup_start=1 / 3, steps=None, epochs=24,
    lr_end=1e-3, clip_norm=35.0, backbone_lr=0.1,
)  # fmt: skip
# Photometric distortion and GridMask (in the detector, bevformer/detectors/bevformer.py); a queue of four frames.
PAPER_DATA = DataConfig(
    dataclasses.replace(NO_AUGMENTATION, photometric=True, grid_mask=0.7), history=3, depth_stride=8
)
PAPER_LOSSES = LossConfig(velocity=0.2)


def r101() -> Run:
    r"""BEVFormer-base, 900 x 1600, 200 x 200 cells, three earlier frames, batch 8 (Li et al., ECCV 2022).

    python -m training.train training.experiments.bevformer:r101 --data NUSCENES --out runs/bevformer \
        --backbone resnet101.pth
    Published on nuScenes val: 41.6 mAP, 51.7 NDS, with deformable convolutions in the backbone and a query decoder.
    Stem, first stage and all norms of the backbone never learn, as there. The published run starts from FCOS3D
    (r101_dcn_fcos3d_pretrain.pth), a detector whose backbone has deformable convolutions and strides in other places:
    its weights do not fit this one, which starts from ImageNet's: expect less. `r101_fcos3d` has that backbone.
    """
    config = BevFormerConfig()
    config = dataclasses.replace(config, image=camera.frozen(config.image, stages=1, norms=True))
    facts = spec("bevformer_r101", cameras=CAMERAS, state=256, grid=BASE_GRID, image=BASE_IMAGE, nms=CIRCLES)
    return Run(
        "bevformer", config, facts, PAPER_OPTIM, PAPER_LOSSES, PAPER_DATA, batch_size=8, backbone_from=camera.IMAGENET
    )


def r101_fcos3d() -> Run:
    r"""`r101` with the published backbone, deformable convolutions in its last two stages, and its published start.

    python -m training.convert r101_dcn_fcos3d_pretrain.pth --as fcos3d_r101 --out runs/fcos3d
    python -m training.train training.experiments.bevformer:r101_fcos3d --data NUSCENES --out runs/bevformer \
        --backbone runs/fcos3d/last.ckpt
    docs/checkpoints.md says where the file is. Published on nuScenes val: 41.6 mAP, 51.7 NDS, with a query decoder.
    """
    run = r101()
    image = dataclasses.replace(run.config.image, backbone="resnet101_fcos3d")
    config, facts = dataclasses.replace(run.config, image=image), dataclasses.replace(run.spec, name="bevformer_fcos3d")
    return dataclasses.replace(run, config=config, spec=facts, backbone_from="FCOS3D")


def r101_static() -> Run:
    """BEVFormer-S, the paper's variant without memory: published 44.8 NDS on nuScenes val."""
    run = r101()
    facts = spec("bevformer_r101_static", cameras=CAMERAS, grid=BASE_GRID, image=BASE_IMAGE, nms=CIRCLES)
    return dataclasses.replace(run, spec=facts, data=dataclasses.replace(PAPER_DATA, history=0))


def r50() -> Run:
    r"""The paper's tiny variant on the other students' image and grid: ResNet-50, one level, three layers, 256 x 704,
    two earlier frames.

    python -m training.train training.experiments.bevformer:r50 --data NUSCENES --out runs/bevformer_r50 \
        --backbone resnet50.pth
    The nearest published figure is BEVFormer-tiny's (450 x 800, 50 x 50 cells): 25.2 mAP, 35.4 NDS.
    """
    image = camera.frozen(ImageConfig("resnet50", stride=16, channels=256), stages=1, norms=True)
    config, data = BevFormerConfig(image, layers=3), dataclasses.replace(PAPER_DATA, history=2)
    facts = spec("bevformer_r50", cameras=CAMERAS, state=256, image=PAPER_IMAGE, nms=CIRCLES)
    return Run("bevformer", config, facts, PAPER_OPTIM, PAPER_LOSSES, data, batch_size=8, backbone_from=camera.IMAGENET)


def small() -> Run:
    """For the synthetic set on two cores: two layers of 64 channels, which read their own queries."""
    config = BevFormerConfig(camera.small_image(), 2, 4, 4, 4, 128, 0.0, SMALL_HEIGHTS, camera.SMALL_HEAD, beside="own")
    facts = spec("bevformer_small", cameras=CAMERAS, state=64, image=SMALL_IMAGE)
    return Run("bevformer", config, facts, small_optim(), camera.SMALL_LOSSES, camera.small_data(history=1))


def tiny() -> Run:
    """For tests and training.overfit."""
    config = BevFormerConfig(camera.tiny_image(), 1, 4, 2, 2, 64, 0.0, SMALL_HEIGHTS[1::2], camera.TINY_HEAD)
    facts = spec("bevformer_tiny", grid=TINY_GRID, cameras=CAMERAS, state=32, image=TINY_IMAGE)
    return Run("bevformer", config, facts, tiny_optim(), TINY_LOSSES, camera.tiny_data(history=1))
