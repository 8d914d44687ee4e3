"""CenterPoint on voxels: the stronger LiDAR teacher; it needs spconv and a GPU."""

from __future__ import annotations

import dataclasses

from training.experiments import centerpoint
from training.models.bev_encoder import SecondConfig
from training.models.center_head import HeadConfig
from training.models.detector import ONE_TASK
from training.recipes.specs import OVERLAPS, TINY_GRID, TINY_LOSSES, small_optim, spec, tiny_optim
from training.run import Run
from training.teachers.voxelnet import VoxelNetConfig


def voxel01() -> Run:
    """CenterPoint on voxels of 0.1 x 0.1 x 0.2 m, ten sweeps, class-balanced, batch 16 (Yin et al., CVPR 2021).

    python -m training.train training.experiments.centerpoint_voxel:voxel01 --data NUSCENES --out runs/centerpoint_voxel
    Published on nuScenes val: 56.4 mAP, 64.8 NDS (CenterPoint's repository).
    """
    facts = spec("centerpoint_voxel01", nms=OVERLAPS)
    run = centerpoint.pillar()
    return dataclasses.replace(run, model="centerpoint_voxel", config=VoxelNetConfig(), spec=facts)


def small() -> Run:
    """For the synthetic set."""
    second = SecondConfig((3, 3), (1, 2), (64, 128), (1.0, 2.0), 64)
    config = VoxelNetConfig((16, 32, 48, 64), 1, second=second, head=HeadConfig(ONE_TASK, 48, 48))
    facts = spec("centerpoint_voxel_small")
    return Run("centerpoint_voxel", config, facts, small_optim(), data=centerpoint.SMALL_DATA)


def tiny() -> Run:
    """For tests and training.overfit."""
    second = SecondConfig((1, 1), (1, 2), (16, 32), (1.0, 2.0), 16)
    config = VoxelNetConfig((8, 8, 16, 16), 1, 0.25, second=second, head=HeadConfig(ONE_TASK, 24, 16))
    facts = spec("centerpoint_voxel_tiny", grid=TINY_GRID)
    return Run("centerpoint_voxel", config, facts, tiny_optim(), TINY_LOSSES, centerpoint.TINY_DATA)
