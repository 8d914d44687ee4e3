"""BEVFusion with camera and radar."""

from __future__ import annotations

import dataclasses

from bev_perception.model_spec import RadarSpec
from training.experiments import radar_pillarnet
from training.losses.detection import LossConfig
from training.models.bevfusion import BevFusionConfig
from training.models.pillar_backbone import PillarBackboneConfig
from training.models.temporal_fusion import TemporalConfig
from training.recipes import camera
from training.recipes.specs import (
    CAMERAS,
    GRID_54,
    RADARS,
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
from training.schedules import OptimConfig

# Radar cells of 0.8 m, six sweeps, all returns, at most 2500 points, 20 in a pillar.
PAPER_RADAR = RadarSpec(format="pillars", pillar_step=0.8, max_pillars=2500, pillar_points=20)
# configs/nuscenes/det/centerhead/lssfpn/default.yaml: AdamW 2e-4, cosine to 1e-3 of it, 500 steps of warm-up.
PAPER_OPTIM = OptimConfig(
    lr=2e-4, decay_norms=True, warmup_steps=500, warmup_start=1 / 3, steps=None, epochs=20, lr_end=1e-3
)
# .../camera+radar/default.yaml: the world is not turned, but shifted.
PAPER_AUGMENTATION = dataclasses.replace(
    camera.scaled(camera.BEVDET_AUGMENTATION, camera.BEVDET_IMAGE, 0.38, 0.55),
    bev_rotation_deg=0.0, bev_scale=(0.9, 1.1), bev_shift_m=0.5,
)  # fmt: skip


def r50() -> Run:
    r"""BEVFusion-R50, camera and radar, 256 x 704, batch 32 (Liu et al., ICRA 2023).

    configs/nuscenes/det/centerhead/lssfpn/camera+radar/resnet50/default.yaml of its repository.
    python -m training.train training.experiments.bevfusion:r50 --data NUSCENES --out runs/bevfusion \
        --backbone resnet50.pth
    Published on nuScenes val: 38.3 mAP, 45.3 NDS (as reproduced by RadarDistill; the repository states none). The
    repository's settings paste objects for 15 epochs into the LiDAR cloud, which this network does not read, and their
    boxes among the targets; here nothing is pasted, for no image or radar would show it.
    """
    facts = spec(
        "bevfusion_r50", cameras=CAMERAS, radars=RADARS, image=camera.BEVDET_IMAGE, radar=PAPER_RADAR,
        nms=SCALED_OVERLAPS,
    )  # fmt: skip
    losses, data = LossConfig(velocity=1.0), dataclasses.replace(camera.paper_data(), augmentation=PAPER_AUGMENTATION)
    return Run(
        "bevfusion", BevFusionConfig(), facts, PAPER_OPTIM, losses, data, batch_size=32, backbone_from=camera.IMAGENET
    )


def r50_pillarnet() -> Run:
    """The same with RadarDistill's radar network for a branch, on its grid: 54 m, 0.6 m, pillars of 0.075 m.

    Published on nuScenes val with a branch that RadarDistill trained: 39.6 mAP, 46.4 NDS (see radardistill.py).
    """
    config = BevFusionConfig(pillarnet=PillarBackboneConfig())
    facts = spec(
        "bevfusion_r50_pillarnet", cameras=CAMERAS, radars=RADARS, grid=GRID_54,
        image=camera.BEVDET_IMAGE, radar=radar_pillarnet.PAPER_RADAR, nms=SCALED_OVERLAPS,
    )  # fmt: skip
    return dataclasses.replace(r50(), config=config, spec=facts)


def small() -> Run:
    """For the synthetic set: one frame, depth supervised as in the repository's `dlss` variant, radar as a map."""
    config = BevFusionConfig(
        camera.small_camera(depth=True), (32, 32), 48, TemporalConfig(), camera.SMALL_ENCODER, camera.SMALL_HEAD
    )
    facts = spec("bevfusion_small", cameras=CAMERAS, radars=RADARS, image=SMALL_IMAGE)
    augmentation = dataclasses.replace(camera.SMALL_AUGMENTATION, drop_all_cameras=0.1, drop_all_radars=0.15)
    data = dataclasses.replace(camera.small_data(), augmentation=augmentation)
    return Run("bevfusion", config, facts, small_optim(), camera.SMALL_LOSSES, data)


def tiny() -> Run:
    """For tests and training.overfit."""
    config = BevFusionConfig(
        camera.tiny_camera(depth=True), (16, 16), 24, TemporalConfig(), camera.TINY_ENCODER, camera.TINY_HEAD
    )
    facts = spec("bevfusion_tiny", grid=TINY_GRID, cameras=CAMERAS, radars=RADARS, image=TINY_IMAGE)
    return Run("bevfusion", config, facts, tiny_optim(), TINY_LOSSES, camera.tiny_data())
