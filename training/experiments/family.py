"""Every student and teacher at one size.

    python -m training.study training.experiments.family:small --data DIR --out DIR --seeds 0 1 2

`small` is for the synthetic set; `tiny` is what training.overfit runs; near.py has one more size. Names are those of
STUDENTS and TEACHERS. centerpoint_voxel needs spconv and, to train, a GPU: its sparse convolutions have no gradient on
the CPU.
"""

from __future__ import annotations

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
