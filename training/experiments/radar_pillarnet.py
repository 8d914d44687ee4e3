"""The radar student: PillarNet-18 on radar alone, RadarDistill's student and its baseline."""

from __future__ import annotations

import dataclasses

from bev_perception.model_spec import RadarSpec
from training.data.config import DataConfig, PasteConfig
from training.experiments.centerpoint import WIDE_AUGMENTATION
from training.experiments.pillarnet import PAPER_LOSSES, PAPER_OPTIM
from training.losses.detection import LossConfig
from training.models.center_head import HeadConfig
from training.models.detector import ONE_TASK
from training.models.pillar_backbone import PillarBackboneConfig
from training.models.radar_pillarnet import RadarPillarNetConfig
from training.recipes.specs import (
    GRID_54,
    OVERLAPS,
    POINTS_ONLY,
    RADARS,
    TINY_GRID,
    TINY_LOSSES,
    small_optim,
    spec,
    tiny_optim,
)
from training.run import Run

# Six sweeps of each radar, all returns, pillars of 0.075 m.
PAPER_RADAR = RadarSpec(format="pillars", pillar_step=0.075)
SMALL_RADAR = RadarSpec(format="pillars", pillar_step=0.4, max_pillars=3000)
TINY_RADAR = RadarSpec(format="pillars", pillar_step=0.8, max_pillars=2000)
# Radar measures velocity: it counts fully, as in the small camera students.
SMALL_LOSSES = LossConfig(velocity=1.0, velocity_beta=5.0)


def radar18() -> Run:
    """PillarNet-18 with CMA on radar, 20 epochs, batch 16, no class balance: the baseline of RadarDistill (Bang et al.,
    CVPR 2024; tools/cfgs/nuscenes_models/pillarnet_radar.yaml).

    python -m training.train training.experiments.radar_pillarnet:radar18 --data NUSCENES --out runs/radar_pillarnet
    Published on nuScenes test: 8.6 mAP, 34.7 NDS without CMA and distillation, 20.5 and 43.7 with both.
    """
    data = DataConfig(WIDE_AUGMENTATION, history=0, paste=PasteConfig())
    facts = spec("radar_pillarnet_18", radars=RADARS, grid=GRID_54, radar=PAPER_RADAR, nms=OVERLAPS)
    return Run("radar_pillarnet", RadarPillarNetConfig(), facts, PAPER_OPTIM, PAPER_LOSSES, data, batch_size=16)


def small() -> Run:
    """For the synthetic set: pillars of 0.4 m, 0.8 m cells, some radars dropped."""
    backbone = PillarBackboneConfig((16, 32, 48, 64, 96), (2, 1, 1), (1, 1, 1, 2, 2), 2)
    config = RadarPillarNetConfig(backbone, head=HeadConfig(ONE_TASK, 48, 48, iou=True))
    facts = spec("radar_pillarnet_small", radars=RADARS, radar=SMALL_RADAR)
    data = DataConfig(dataclasses.replace(POINTS_ONLY, drop_radar=0.05), history=0)
    return Run("radar_pillarnet", config, facts, small_optim(), SMALL_LOSSES, data)


def tiny() -> Run:
    """For tests and training.overfit."""
    backbone = PillarBackboneConfig((16, 16, 24, 24, 64), (1, 1, 1), (1, 1, 1, 1, 1), 1)
    config = RadarPillarNetConfig(backbone, head=HeadConfig(ONE_TASK, 24, 24, iou=True))
    facts = spec("radar_pillarnet_tiny", grid=TINY_GRID, radars=RADARS, radar=TINY_RADAR)
    return Run("radar_pillarnet", config, facts, tiny_optim(), TINY_LOSSES, DataConfig(history=0))
