"""MVP: CenterPoint with virtual points from instance masks of the images."""

from __future__ import annotations

import dataclasses

from training.data.config import VirtualConfig
from training.experiments import centerpoint
from training.recipes.specs import OVERLAPS, TINY_GRID, spec
from training.run import Run
from training.teachers.mvp import MVPConfig

VIRTUAL = VirtualConfig()


def pillar() -> Run:
    """MVP on CenterPoint-Pillar, 50 virtual points per mask, batch 16 (Yin et al., NeurIPS 2021).

    python -m training.train training.experiments.mvp:pillar --data NUSCENES --out runs/mvp
    Wants COCO masks in NUSCENES/masks (training.data.masks). Nothing is pasted: pasted objects would have no masks.
    Published on nuScenes val: 62.8 mAP, 66.2 NDS.
    """
    augmentation = centerpoint.WIDE_AUGMENTATION
    data = dataclasses.replace(centerpoint.PAPER_DATA, augmentation=augmentation, virtual=VIRTUAL, paste=None)
    facts = spec("mvp_pillar", nms=OVERLAPS)
    return Run("mvp", MVPConfig(), facts, centerpoint.PAPER_OPTIM, data=data, batch_size=16)


def small() -> Run:
    """For the synthetic set with masks: `python -m training.world masks DATA`."""
    run = centerpoint.small()
    data = dataclasses.replace(run.data, virtual=VIRTUAL)
    config = MVPConfig(run.config, run.config.point_layers)
    return dataclasses.replace(run, model="mvp", config=config, spec=spec("mvp_small"), data=data)


def tiny() -> Run:
    """For tests and training.overfit."""
    run = centerpoint.tiny()
    data = dataclasses.replace(run.data, virtual=VIRTUAL)
    config = MVPConfig(run.config, run.config.point_layers)
    return dataclasses.replace(run, model="mvp", config=config, spec=spec("mvp_tiny", grid=TINY_GRID), data=data)
