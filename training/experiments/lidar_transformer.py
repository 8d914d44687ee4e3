"""A LiDAR transformer with BEVFormer's query head: the teacher of BEVFormer students."""

from __future__ import annotations

import dataclasses

from bev_perception.grid import BevGrid
from training.data.config import DataConfig
from training.experiments.centerpoint import SMALL_DATA, TINY_DATA
from training.models.pillar_backbone import PillarBackboneConfig
from training.models.query_head import QueryHeadConfig
from training.recipes.specs import POINTS_ONLY, TINY_GRID, lidar_over, small_optim, spec, tiny_optim
from training.run import Run
from training.schedules import OptimConfig
from training.teachers.lidar_transformer import LidarTransformerConfig

GRID = BevGrid(step=0.512)
# DistillBEV, configs/teacher_transformer/lidarformer.py: AdamW in one cycle up to ten times 5e-5, clip 35, 20 epochs.
PAPER_OPTIM = OptimConfig(lr=5e-4, decay_norms=True, warmup_steps=0, steps=None, epochs=20, schedule="one_cycle")
PAPER_DATA = DataConfig(POINTS_ONLY, history=0, lidar=lidar_over(GRID), cbgs=True)


def lidar18() -> Run:
    """Pillars of 0.064 m, 200 x 200 cells, 900 queries, six decoder layers, batch 16.

    python -m training.train training.experiments.lidar_transformer:lidar18 --data NUSCENES --out runs/lidar_transformer
    DistillBEV (Wang et al., ICCV 2023) publishes no score of its teacher alone. Its encoder of voxels is trained
    before, and goes on at a tenth of the rate; this one, of pillars, starts afresh and learns at the whole rate.
    """
    facts = dataclasses.replace(spec("lidar_transformer", grid=GRID), top_k=300)
    return Run("lidar_transformer", LidarTransformerConfig(), facts, PAPER_OPTIM, data=PAPER_DATA, batch_size=16)


def small() -> Run:
    """For the synthetic set: pillars of 0.4 m, 300 queries, three decoder layers."""
    backbone = PillarBackboneConfig((32, 48, 64, 96, 128), (2, 1, 1), (1, 1, 2, 2, 2), 2)
    config = LidarTransformerConfig(backbone, head=QueryHeadConfig(300, 96, 3, 4, 4, 192, 0.0))
    return Run("lidar_transformer", config, spec("lidar_transformer_small"), small_optim(1e-3), data=SMALL_DATA)


def tiny() -> Run:
    """For tests and training.overfit."""
    backbone = PillarBackboneConfig((8, 16, 24, 32, 48), (2, 1, 1), (1, 1, 1, 1, 1), 1)
    config = LidarTransformerConfig(backbone, head=QueryHeadConfig(200, 48, 2, 4, 4, 96, 0.0))
    return Run(
        "lidar_transformer",
        config,
        spec("lidar_transformer_tiny", grid=TINY_GRID),
        tiny_optim(2e-3, 1000),
        data=TINY_DATA,
    )
