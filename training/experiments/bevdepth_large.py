"""BEVDepth with ConvNeXt-B: the camera teacher of BEV-LGKD."""

from __future__ import annotations

import dataclasses

from bev_perception.grid import BevGrid
from training.experiments import bevdepth
from training.recipes.specs import CAMERAS, CIRCLES, spec
from training.run import Run
from training.teachers.bevdepth_large import BevDepthLargeConfig


def convnext_base() -> Run:
    r"""BEVDepth-ConvNeXt-B, 256 x 704, 256 x 256 cells of 0.4 m, settings of BEVDepth without class balance
    (BEV-LGKD, 2022).

    python -m training.train training.experiments.bevdepth_large:convnext_base --data NUSCENES \
        --out runs/bevdepth_large --backbone convnext_base.pth
    BEV-LGKD publishes no score of this teacher alone; BEVDepth's ConvNeXt-B at a larger image has 52.0 mAP and 60.9 NDS
    on nuScenes test.
    """
    config = BevDepthLargeConfig()
    facts = spec(
        "bevdepth_convnext_base", cameras=CAMERAS, state=config.camera.context, grid=BevGrid(step=0.4),
        nms=CIRCLES,
    )  # fmt: skip
    run = bevdepth.r50_keyframes()
    optim = dataclasses.replace(run.optim, ema=0.0)
    return dataclasses.replace(run, model="bevdepth_large", config=config, spec=facts, optim=optim)


def small() -> Run:
    """For the synthetic set: the small student with half as many channels again in image and BEV."""
    return widened(bevdepth.small(), 3 / 2)


def tiny() -> Run:
    """For tests and training.overfit."""
    return widened(bevdepth.tiny(), 3 / 2)


def widened(run: Run, factor: float) -> Run:
    """BEVDepth with image backbone and BEV encoder so many times as wide; the lifted map stays as it is."""
    c = run.config
    image = dataclasses.replace(
        c.camera.image, width=round(c.camera.image.width * factor), channels=round(c.camera.image.channels * factor)
    )
    config = BevDepthLargeConfig(
        dataclasses.replace(c.camera, image=image),
        c.temporal,
        dataclasses.replace(c.encoder, base=round(c.encoder.base * factor)),
        c.head,
    )
    facts = dataclasses.replace(run.spec, name=run.spec.name.replace("bevdepth", "bevdepth_large"))
    return dataclasses.replace(run, model="bevdepth_large", config=config, spec=facts)
