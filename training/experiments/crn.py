"""CRN: camera and radar, radar-assisted view transform, attention over both BEV maps, earlier keyframes."""

from __future__ import annotations

import dataclasses

from bev_perception.model_spec import RadarSpec
from training.data.config import CRN_RETURNS
from training.experiments import bevfusion
from training.losses.detection import LossConfig
from training.models.bev_encoder import BevDepthEncoderConfig
from training.models.crn import CrnConfig, MfaConfig
from training.models.temporal_fusion import TemporalConfig, state_channels
from training.recipes import camera
from training.recipes.specs import (
    CAMERAS,
    CIRCLES,
    PAPER_IMAGE,
    RADARS,
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

PAPER_NMS = tuple(dataclasses.replace(group, most=200) for group in CIRCLES)
PAPER_RADAR = RadarSpec(sweeps=8, format="pillars", pillar_step=0.8, max_pillars=2500, pillar_points=8)
# exps/base_exp.py, exps/base_cli.py: AdamW 2e-4 for a batch of 16, a tenth of it after epochs 19 and 23 of 24.
PAPER_OPTIM = OptimConfig(
    lr=2e-4, weight_decay=1e-4, decay_norms=True, warmup_steps=0, steps=None, epochs=24, schedule="step",
    milestones=(19 / 24, 23 / 24), clip_norm=5.0,
)  # fmt: skip
PAPER_LOSSES = LossConfig(velocity=1.0, depth=3.0, depth_form="bce")
PAPER_AUGMENTATION = dataclasses.replace(
    camera.scaled(camera.BEVDET_AUGMENTATION, PAPER_IMAGE, 0.386, 0.55), image_rotation_deg=0.0, bev_scale=(0.9, 1.1)
)


def r50() -> Run:
    r"""CRN-R50, 256 x 704, four keyframes, no class balance, batch 16 (Kim et al., ICCV 2023).

    exps/det/CRN_r50_256x704_128x128_4key.py of its repository, whose keyframes lie a second apart, these half a second.
    python -m training.train training.experiments.crn:r50 --data NUSCENES --out runs/crn --backbone resnet50.pth
    Published on nuScenes val: 47.3 mAP, 56.2 NDS. Every radar return is kept, as on the vehicle, whose radar topics
    carry no states to choose by; `r50_filtered` keeps those that the paper keeps. At most 200 boxes of each task,
    as released.
    The published code reads a random five of six sweeps of radar in training and leaves out a tenth of their points;
    here all of eight are read. The stem of the backbone never learns, as there.
    """
    config = CrnConfig()
    config = dataclasses.replace(config, image=camera.frozen(config.image, stages=0))
    state = state_channels(config.temporal, config.mfa.channels)
    facts = spec("crn_r50", cameras=CAMERAS, radars=RADARS, state=state, radar=PAPER_RADAR, nms=PAPER_NMS)
    data = dataclasses.replace(camera.paper_data(history=3), augmentation=PAPER_AUGMENTATION, cbgs=False)
    return Run("crn", config, facts, PAPER_OPTIM, PAPER_LOSSES, data, batch_size=16, backbone_from=camera.IMAGENET)


def r50_filtered() -> Run:
    """With the paper's filter of radar returns by their states: to compare with its score, not for a vehicle."""
    run = r50()
    facts = dataclasses.replace(run.spec, name="crn_r50_filtered")
    return dataclasses.replace(run, spec=facts, data=dataclasses.replace(run.data, returns=CRN_RETURNS))


def small() -> Run:
    """For the synthetic set: one earlier frame as the other small students, radar as a map."""
    config = CrnConfig(
        camera.small_image("second"), camera.SMALL_BINS, camera.SMALL_CHANNELS, camera.SMALL_DEPTH_NET, (32, 32),
        (16, 2), MfaConfig(camera.SMALL_CHANNELS, 2, 4, 4, 96, 0.0), TemporalConfig("concat"),
        BevDepthEncoderConfig(48, (1, 1, 1), 16), camera.SMALL_HEAD,
    )  # fmt: skip
    state = camera.SMALL_CHANNELS
    facts = spec("crn_small", cameras=CAMERAS, radars=RADARS, state=state, image=SMALL_IMAGE)
    augmentation = bevfusion.small().data.augmentation
    data = dataclasses.replace(camera.small_data(history=1), augmentation=augmentation)
    return Run("crn", config, facts, small_optim(), camera.SMALL_LOSSES, data)


def tiny() -> Run:
    """For tests and training.overfit."""
    config = CrnConfig(
        camera.tiny_image("second"), camera.TINY_BINS, camera.TINY_CHANNELS, camera.TINY_DEPTH_NET, (16, 16),
        (8, 2), MfaConfig(camera.TINY_CHANNELS, 1, 4, 2, 48, 0.0), TemporalConfig("concat"),
        BevDepthEncoderConfig(24, (1, 1, 1), 8), camera.TINY_HEAD,
    )  # fmt: skip
    facts = spec(
        "crn_tiny", grid=TINY_GRID, cameras=CAMERAS, radars=RADARS, state=camera.TINY_CHANNELS, image=TINY_IMAGE
    )
    return Run("crn", config, facts, tiny_optim(), TINY_LOSSES, camera.tiny_data(history=1))
