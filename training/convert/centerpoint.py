"""CenterPoint on pillars (Yin et al., CVPR 2021), as github.com/tianweiy/CenterPoint (det3d) saves it.

Its configuration is configs/nusc/pp/nusc_centerpoint_pp_02voxel_two_pfn_10sweep.py.
"""

from __future__ import annotations

import dataclasses

from training.convert.layers import BOXES_MMDET3D, LIDAR_COLUMNS, Change, box_changes, point_layer, same
from training.convert.reading import State
from training.convert.table import Table
from training.experiments.centerpoint import pillar
from training.models.detector import SIX_TASKS
from training.models.frame import Frame
from training.run import Run

Z_RANGE = (-5.0, 3.0)  # m, in LIDAR_TOP
ROOM = 20  # points of a pillar
# What their points' first layer reads: x to the right is our y. They take the intensity as stored, 0..255.
COLUMNS = (
    *same("y", "x", "z"), ("intensity", 255.0, 0.0), *same("age", "y-mean", "x-mean", "z-mean", "y-centre", "x-centre")
)  # fmt: skip
HEAD = {"heatmap": "hm", "reg": "reg", "height": "height", "dim": "dim", "rot": "rot", "vel": "vel"}
LAYERS = (3, 5, 5)  # of SECOND's stages, behind the first


def run(frame: Frame) -> Run:
    """The network, and what it is shown: the experiment `pillar` in `frame`, with det3d's pillars."""
    published = pillar()
    config = dataclasses.replace(published.config, z_range=Z_RANGE, room=ROOM, frame=frame)
    return dataclasses.replace(published, config=config)


def prepared(theirs: State) -> State:
    """With a first layer of points that reads our columns."""
    linear, mean = "reader.pfn_layers.0.linear.weight", "reader.pfn_layers.0.norm.running_mean"
    if linear not in theirs or mean not in theirs:
        return theirs  # the table will tell
    weight, centre = point_layer(theirs[linear], theirs[mean], COLUMNS, LIDAR_COLUMNS)
    return theirs | {linear: weight, mean: centre}


def table() -> Table:
    modules = {f"reader.pfn_layers.{i}": f"pillars.layers.{i}" for i in range(2)}
    for stage, layers in enumerate(LAYERS):
        # Theirs begin with a padding, which here is the convolution's own.
        for i in range(3 * (1 + layers)):
            modules[f"neck.blocks.{stage}.{i + 1}"] = f"encoder.stages.{stage}.{i}"
        modules[f"neck.deblocks.{stage}"] = f"encoder.neck.deblocks.{stage}"
    modules |= {f"bbox_head.shared_conv.{i}": f"head.shared.{i}" for i in range(2)}
    folded = {"bbox_head.shared_conv.0.bias": "bbox_head.shared_conv.1.running_mean"}
    changed: dict[str, Change] = {}
    for task in range(len(SIX_TASKS)):
        theirs = {ours: f"bbox_head.tasks.{task}.{name}" for ours, name in HEAD.items()}
        for ours, name in theirs.items():
            branch = f"head.branches.{task}.{ours}"
            modules |= {f"{name}.0": f"{branch}.0.0", f"{name}.1": f"{branch}.0.1", f"{name}.3": f"{branch}.1"}
            folded[f"{name}.0.bias"] = f"{name}.1.running_mean"
        changed |= box_changes({ours: f"{name}.3" for ours, name in theirs.items()}, BOXES_MMDET3D)
    return Table(modules, changed, folded, whole=("reader.", "backbone.", "neck.", "bbox_head."))
