"""Every student and teacher at one size.

    python -m training.study training.experiments.family:near --data DIR --out DIR --seeds 0 1 2

`small` is for the synthetic set, `near` the same within 25.6 m, for a study on two cores; `tiny` is what
training.overfit runs. Names are those of STUDENTS and TEACHERS. centerpoint_voxel needs spconv and, to train, a GPU:
its sparse convolutions have no gradient on the CPU.
"""

from __future__ import annotations

import dataclasses

from bev_perception.grid import BevGrid
from bev_perception.model_spec import ImageSpec
from training.experiments import (
    bevdepth,
    bevdepth_large,
    bevdet,
    bevdet4d,
    bevformer,
    bevfusion,
    camera_radar,
    centerpoint,
    centerpoint_voxel,
    crn,
    fbbev,
    lidar_transformer,
    mvp,
    pillarnet,
    radar_pillarnet,
)
from training.experiments.specs import lidar_over
from training.run import Run


def small() -> dict[str, Run]:
    """For the synthetic set on two cores: about ten minutes each."""
    return {
        "centerpoint": centerpoint.small(),
        "centerpoint_voxel": centerpoint_voxel.small(),
        "pillarnet": pillarnet.small(),
        "mvp": mvp.small(),
        "lidar_transformer": lidar_transformer.small(),
        "bevdepth_large": bevdepth_large.small(),
        "bevdet": bevdet.small(),
        "bevdet4d": bevdet4d.small(),
        "bevdepth": bevdepth.small(),
        "bevformer": bevformer.small(),
        "fbbev": fbbev.small(),
        "radar_pillarnet": radar_pillarnet.small(),
        "bevfusion": bevfusion.small(),
        "crn": crn.small(),
        "camera_radar": camera_radar.small(),
    }


def near() -> dict[str, Run]:
    """`small` on a quarter of the area and half of the pixels: about five times as many steps in the same time.

    Scores are of objects within 25.6 m ahead, behind and to the sides; they are not comparable to those of `small`.
    """
    return {name: _near(run) for name, run in small().items()}


def _near(run: Run) -> Run:
    grid, image = BevGrid(-25.6, 25.6, -25.6, 25.6, 0.8), ImageSpec(96, 256)
    data = run.data
    if data.lidar is not None:
        data = dataclasses.replace(data, lidar=lidar_over(grid))
    # Short runs: velocity counts fully and smoothly (docs/results.md).
    losses = dataclasses.replace(run.losses, velocity=1.0, velocity_beta=5.0)
    spec = dataclasses.replace(run.spec, name=run.spec.name.replace("_small", "") + "_near", grid=grid, image=image)
    return dataclasses.replace(run, spec=spec, data=data, losses=losses)


def tiny() -> dict[str, Run]:
    """For tests and for learning eight keyframes by heart."""
    return {
        "centerpoint": centerpoint.tiny(),
        "centerpoint_voxel": centerpoint_voxel.tiny(),
        "pillarnet": pillarnet.tiny(),
        "mvp": mvp.tiny(),
        "lidar_transformer": lidar_transformer.tiny(),
        "bevdepth_large": bevdepth_large.tiny(),
        "bevdet": bevdet.tiny(),
        "bevdet4d": bevdet4d.tiny(),
        "bevdepth": bevdepth.tiny(),
        "bevformer": bevformer.tiny(),
        "fbbev": fbbev.tiny(),
        "radar_pillarnet": radar_pillarnet.tiny(),
        "bevfusion": bevfusion.tiny(),
        "crn": crn.tiny(),
        "camera_radar": camera_radar.tiny(),
    }


def paper() -> dict[str, Run]:
    """The published configurations, one per family; the compact student has none."""
    return {
        "centerpoint": centerpoint.pillar(),
        "centerpoint_voxel": centerpoint_voxel.voxel01(),
        "pillarnet": pillarnet.lidar18(),
        "mvp": mvp.pillar(),
        "lidar_transformer": lidar_transformer.lidar18(),
        "bevdepth_large": bevdepth_large.convnext_base(),
        "bevdet": bevdet.r50(),
        "bevdet4d": bevdet4d.r50(),
        "bevdepth": bevdepth.r50(),
        "bevformer": bevformer.r101(),
        "fbbev": fbbev.r50(),
        "radar_pillarnet": radar_pillarnet.radar18(),
        "bevfusion": bevfusion.r50(),
        "crn": crn.r50(),
    }
