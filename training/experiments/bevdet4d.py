"""BEVDet4D: BEVDet with an earlier frame."""

from __future__ import annotations

import dataclasses

from training.losses.detection import LossConfig
from training.models.bevdet import BevDet4DConfig
from training.models.temporal_fusion import TemporalConfig, state_channels
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

PAPER_INTERVAL = (0.4, 2.25)  # s


def r50() -> Run:
    r"""BEVDet4D-R50, 256 x 704, one earlier frame 0.4 to 2.25 s back, 25 epochs, batch 64 (Huang & Huang, 2022;
    configs/bevdet4d/bevdet4d-r50.py).

    python -m training.train training.experiments.bevdet4d:r50 --data NUSCENES --out runs/bevdet4d \
        --backbone resnet50.pth
    Published on nuScenes val: 32.2 mAP, 45.7 NDS. The original trains with frames 0.75 to 2.25 s back
    and tests with one 1.5 s back; this model tests with one half a second back, which is why its range starts lower.
    The original regresses how far an object came since the earlier frame, this one its velocity: a vehicle's frames
    have no fixed distance.
    """
    config = BevDet4DConfig()
    state, oldest = config.camera.context, PAPER_INTERVAL[1]
    facts = spec(
        "bevdet4d_r50", cameras=CAMERAS, state=state, image=camera.BEVDET_IMAGE, nms=SCALED_OVERLAPS, max_age_s=oldest
    )
    optim = dataclasses.replace(camera.BEVDET_OPTIM, epochs=25, milestones=(16 / 25, 22 / 25))
    data = camera.paper_data(history=1, interval=PAPER_INTERVAL)
    return Run(
        "bevdet4d", config, facts, optim, LossConfig(velocity=1.0), data, batch_size=64, backbone_from=camera.IMAGENET
    )


def small() -> Run:
    """For the synthetic set on two cores."""
    config = BevDet4DConfig(
        camera.small_camera(depth=False), 1, TemporalConfig("concat"), camera.SMALL_ENCODER, camera.SMALL_HEAD
    )
    facts = spec("bevdet4d_small", cameras=CAMERAS, state=camera.SMALL_CHANNELS, image=SMALL_IMAGE)
    return Run("bevdet4d", config, facts, small_optim(), camera.SMALL_LOSSES, camera.small_data(history=1))


def small_history() -> Run:
    """The small run with SOLOFusion's long history instead: eight earlier maps, of which a clip fills three."""
    return _with_temporal(small(), TemporalConfig("history", 8, 2 * camera.SMALL_CHANNELS), "bevdet4d_small_history")


def small_recurrent() -> Run:
    """The small run with a gated running state instead."""
    return _with_temporal(small(), TemporalConfig("recurrent"), "bevdet4d_small_recurrent")


def tiny() -> Run:
    """For tests and training.overfit."""
    config = BevDet4DConfig(
        camera.tiny_camera(depth=False), 1, TemporalConfig("concat"), camera.TINY_ENCODER, camera.TINY_HEAD
    )
    facts = spec("bevdet4d_tiny", grid=TINY_GRID, cameras=CAMERAS, state=camera.TINY_CHANNELS, image=TINY_IMAGE)
    return Run("bevdet4d", config, facts, tiny_optim(steps=1200), TINY_LOSSES, camera.tiny_data(history=1))


def _with_temporal(run: Run, temporal: TemporalConfig, name: str) -> Run:
    """The run with another temporal fusion, and clips of three earlier frames."""
    state = state_channels(temporal, run.config.camera.context)
    facts = dataclasses.replace(
        run.spec, name=name, temporal=dataclasses.replace(run.spec.temporal, state_channels=state)
    )
    config = dataclasses.replace(run.config, temporal=temporal)
    return dataclasses.replace(run, config=config, spec=facts, data=camera.small_data(history=3))
