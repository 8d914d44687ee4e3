r"""Every student and teacher at a size for studies on two cores: objects within 25.6 m.

    python -m training.train training.experiments.near:backbone --data DIR --out DIR/backbone
    python -m training.study training.experiments.near:study --data DIR --out DIR --seeds 0 1 2 \
        --backbone DIR/backbone/last.ckpt

LiDAR teachers are the small ones with four sweeps and train five times as long as students (half an hour of one core:
after 1,200 steps they know no more than a camera + radar student). Students are the tiny ones (images of 64 x 192,
backbones of width 16) and take four to ten minutes of one core, without augmentation: their teachers see every sample
alike and can be asked once (--teacher-cache). Scores are of objects within 25.6 m ahead, behind and to the sides; they
are not comparable to those of `small`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from bev_perception.model_spec import ImageSpec, ModelSpec
from training.data.augment import NO_AUGMENTATION
from training.experiments.bevdepth_large import widened
from training.experiments.family import small, tiny
from training.models import STUDENTS
from training.models.bevdet import BevDetConfig
from training.models.pillar_backbone import PillarBackboneConfig
from training.models.view.depth_bins import DepthBins
from training.recipes import camera
from training.recipes.specs import TINY_GRID, lidar_over, small_optim
from training.run import Run

IMAGE = ImageSpec(64, 192)
BINS = DepthBins(1.0, 1.0, 36)  # to the corners of the range
# PillarNet's and the radar student's alike: a radar student starts as its teacher.
SLIM = PillarBackboneConfig((16, 24, 32, 48, 64), (2, 1, 1), (1, 1, 1, 1, 1), 1)
SWEEPS = dataclasses.replace(lidar_over(TINY_GRID), sweeps=4)


def study() -> dict[str, Run]:
    """The family, and what it is compared with: FB-BEV without its backward projection."""
    runs = family()
    return runs | {"fbbev_forward": _forward_only(runs["fbbev"])}


def family() -> dict[str, Run]:
    """Name in STUDENTS or TEACHERS -> run."""
    large, compact = small(), tiny()
    runs = {name: _student(compact[name]) if name in STUDENTS else _teacher(large[name]) for name in large}
    return runs | {
        "camera_radar": _with_config(runs["camera_radar"], backbone_blocks=(2, 2, 2, 2)),  # ResNet-18, as the others
        "radar_pillarnet": _radar_student(large["radar_pillarnet"]),
        "pillarnet": _with_config(runs["pillarnet"], backbone=SLIM),
        "bevdepth_large": _camera_teacher(compact["bevdepth"]),
    }


def backbone() -> Run:
    """What the camera students' image backbones start with, in the place of ImageNet weights (--backbone): that of a
    single-frame BEVDepth, trained longer and with augmentation."""
    run = _student(tiny()["bevdepth"])
    augmentation = dataclasses.replace(camera.SMALL_AUGMENTATION, drop_camera=0.0, drop_prev=1.0)
    data = dataclasses.replace(run.data, augmentation=augmentation)
    return dataclasses.replace(run, data=data, optim=small_optim(2e-3, steps=4000))


def _teacher(run: Run) -> Run:
    """A LiDAR network, with augmentation; velocity counts fully and smoothly (docs/lab_notes/velocity.md)."""
    data = dataclasses.replace(run.data, lidar=SWEEPS)
    losses = dataclasses.replace(run.losses, velocity=1.0, velocity_beta=5.0)
    optim = small_optim(run.optim.lr, steps=6000)
    return dataclasses.replace(run, spec=_spec(run), data=data, losses=losses, optim=optim)


def _student(run: Run) -> Run:
    data = dataclasses.replace(run.data, augmentation=NO_AUGMENTATION)
    config, optim = _with_bins(run.config), small_optim(2e-3, steps=1200)
    return dataclasses.replace(run, spec=_spec(run), config=config, data=data, losses=camera.SMALL_LOSSES, optim=optim)


def _radar_student(run: Run) -> Run:
    """One sweep of each radar: with six of the synthetic world's it finds more than LiDAR in as many steps."""
    radar = dataclasses.replace(run.spec.radar, sweeps=1, max_pillars=1500)
    return _student(
        _with_config(dataclasses.replace(run, spec=dataclasses.replace(run.spec, radar=radar)), backbone=SLIM)
    )


def _camera_teacher(run: Run) -> Run:
    """The student's images and bins, twice as wide; from scratch, so it trains longer."""
    return dataclasses.replace(_student(widened(run, 2)), optim=small_optim(2e-3, steps=3000))


def _forward_only(run: Run) -> Run:
    """What of FB-BEV is left without its backward projection is a BEVDet with its depth network and memory."""
    whole = run.config
    config = BevDetConfig(whole.camera, whole.temporal, whole.encoder, whole.head)
    return dataclasses.replace(run, model="bevdet", config=config)


def _with_config(run: Run, **changes: Any) -> Run:
    return dataclasses.replace(run, config=dataclasses.replace(run.config, **changes))


def _spec(run: Run) -> ModelSpec:
    name = run.spec.name.replace("_small", "").replace("_tiny", "") + "_near"
    return dataclasses.replace(run.spec, name=name, grid=TINY_GRID, image=IMAGE)


def _with_bins(config: Any) -> Any:
    """The config with depth bins of this range, where it has any."""
    if hasattr(config, "bins"):
        return dataclasses.replace(config, bins=BINS)
    if hasattr(config, "camera"):
        return dataclasses.replace(config, camera=dataclasses.replace(config.camera, bins=BINS))
    return config
