"""Every student and teacher at one size.

    python -m training.study training.experiments.family:small --data DIR --out DIR --seeds 0 1 2

`small` is for the synthetic set; `tiny` is what training.overfit runs; near.py has one more size. Names are those of
STUDENTS and TEACHERS. centerpoint_voxel needs spconv and, to train, a GPU: its sparse convolutions have no gradient on
the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

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

# Name in STUDENTS or TEACHERS -> module with its `small` and `tiny`.
EXPERIMENTS: dict[str, ModuleType] = {
    "centerpoint": centerpoint,
    "centerpoint_voxel": centerpoint_voxel,
    "pillarnet": pillarnet,
    "mvp": mvp,
    "lidar_transformer": lidar_transformer,
    "bevdepth_large": bevdepth_large,
    "bevdet": bevdet,
    "bevdet4d": bevdet4d,
    "bevdepth": bevdepth,
    "bevformer": bevformer,
    "fbbev": fbbev,
    "radar_pillarnet": radar_pillarnet,
    "bevfusion": bevfusion,
    "crn": crn,
    "camera_radar": camera_radar,
}
# The published configuration of each; the compact student has none.
PAPER: dict[str, Callable[[], Run]] = {
    "centerpoint": centerpoint.pillar,
    "centerpoint_voxel": centerpoint_voxel.voxel01,
    "pillarnet": pillarnet.lidar18,
    "mvp": mvp.pillar,
    "lidar_transformer": lidar_transformer.lidar18,
    "bevdepth_large": bevdepth_large.convnext_base,
    "bevdet": bevdet.r50,
    "bevdet4d": bevdet4d.r50,
    "bevdepth": bevdepth.r50,
    "bevformer": bevformer.r101,
    "fbbev": fbbev.r50,
    "radar_pillarnet": radar_pillarnet.radar18,
    "bevfusion": bevfusion.r50,
    "crn": crn.r50,
}


def small() -> dict[str, Run]:
    """For the synthetic set on two cores: about ten minutes each."""
    return {name: module.small() for name, module in EXPERIMENTS.items()}


def tiny() -> dict[str, Run]:
    """For tests and for learning eight keyframes by heart."""
    return {name: module.tiny() for name, module in EXPERIMENTS.items()}


def paper() -> dict[str, Run]:
    """The published configurations."""
    return {name: make() for name, make in PAPER.items()}
