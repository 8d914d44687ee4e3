"""CenterPoint on pillars: the LiDAR teacher of DistillBEV's students."""

from __future__ import annotations

import dataclasses

from training.data.config import DataConfig, PasteConfig
from training.models.bev_encoder import SecondConfig
from training.models.center_head import HeadConfig
from training.models.detector import ONE_TASK
from training.recipes.specs import (
    GRID,
    OVERLAPS,
    POINTS_ONLY,
    TINY_GRID,
    lidar_over,
    small_optim,
    spec,
    tiny_optim,
)
from training.run import Run
from training.schedules import OptimConfig
from training.teachers.centerpoint import CenterPointConfig

# CenterPoint, configs/nusc/pp/nusc_centerpoint_pp_02voxel_two_pfn_10sweep.py: one cycle up to 1e-3, 20 epochs, clip 35;
# Adam with beta2 of 0.99 and decay of everything (det3d/torchie/apis/train.py).
PAPER_OPTIM = OptimConfig(
    lr=1e-3, beta2=0.99, decay_norms=True, warmup_steps=0, steps=None, epochs=20, schedule="one_cycle"
)
# The later settings of its repository (fix_bn_z), which MVP, PillarNet and RadarDistill take over; the pillars' neither
# shift the scene nor turn and scale it as far.
WIDE_AUGMENTATION = dataclasses.replace(POINTS_ONLY, bev_rotation_deg=45.0, bev_scale=(0.9, 1.1), bev_shift_m=0.5)
PAPER_DATA = DataConfig(POINTS_ONLY, history=0, lidar=lidar_over(GRID), paste=PasteConfig(), cbgs=True)
SMALL_DATA = DataConfig(POINTS_ONLY, history=0, lidar=lidar_over(GRID))
TINY_DATA = DataConfig(history=0, lidar=lidar_over(TINY_GRID))


def pillar() -> Run:
    """CenterPoint-Pillar, 0.2 m, ten sweeps, class-balanced, objects pasted, batch 16 (Yin et al., CVPR 2021).

    python -m training.train training.experiments.centerpoint:pillar --data NUSCENES --out runs/centerpoint
    Published on nuScenes val: 50.3 mAP, 60.2 NDS (CenterPoint's repository, two PFN layers).
    """
    facts = spec("centerpoint_pillar", nms=OVERLAPS)
    return Run("centerpoint", CenterPointConfig(), facts, PAPER_OPTIM, data=PAPER_DATA, batch_size=16)


def small() -> Run:
    """For the synthetic set: pillars of 0.4 m, one head for all classes."""
    second = SecondConfig((2, 3, 3), (2, 2, 2), (32, 64, 128), (1.0, 2.0, 4.0), 48)
    config = CenterPointConfig((32,), second=second, head=HeadConfig(ONE_TASK, 48, 48))
    return Run("centerpoint", config, spec("centerpoint_small"), small_optim(), data=SMALL_DATA)


def tiny() -> Run:
    """For tests and training.overfit."""
    second = SecondConfig((1, 1, 1), (2, 2, 2), (16, 24, 32), (1.0, 2.0, 4.0), 16)
    config = CenterPointConfig((16,), second=second, head=HeadConfig(ONE_TASK, 24, 16))
    return Run("centerpoint", config, spec("centerpoint_tiny", grid=TINY_GRID), tiny_optim(), data=TINY_DATA)
