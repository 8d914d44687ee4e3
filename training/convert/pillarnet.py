"""PillarNet-18 (Shi et al., ECCV 2022) on LiDAR, as github.com/geonhobang/RadarDistill (OpenPCDet) saves its teacher.

Its configuration is tools/cfgs/nuscenes_models/pillarnet.yaml. RadarDistill's own file holds it beside the student.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from training.convert.layers import BOXES_OPENPCDET, LIDAR_COLUMNS, Change, Column, box_changes, point_layer, same
from training.convert.reading import State
from training.convert.spconv import dense_kernels
from training.convert.table import Table
from training.experiments.pillarnet import EVERY_HEIGHT, lidar18, of_every_height
from training.models.detector import SIX_TASKS
from training.models.frame import Frame
from training.run import Run

# What their points' first layer reads; x to the right is our y. They measure from their pillar's centre (4.9 m below
# the LiDAR), from the origin, from the pillar's mean and from the range's corner.
CENTRE = (*same("y-centre", "x-centre"), ("z", 1.0, 4.9))
MEAN_AND_CORNER = (*same("y-mean", "x-mean", "z-mean"), ("y", 1.0, 54.0), ("x", 1.0, 54.0), ("z", 1.0, 5.0))
COLUMNS = (*CENTRE, *same("y", "x", "z"), ("intensity", 255.0, 0.0), *same("age"), *MEAN_AND_CORNER)
HEAD = {
    "heatmap": "hm", "reg": "center", "height": "center_z", "dim": "dim", "rot": "rot", "vel": "vel", "iou": "iou"
}  # fmt: skip
WHOLE = ("vfe.", "backbone_3d.", "backbone_2d.", "dense_head.")


def run(frame: Frame) -> Run:
    """The network, and what it is shown: the experiment `lidar18` in `frame`, with points of every height."""
    published = lidar18()
    assert published.data.lidar is not None
    # The middle of these heights, from which ours are measured, is 0.
    config = dataclasses.replace(published.config, z_range=EVERY_HEIGHT, frame=frame)
    data = dataclasses.replace(published.data, lidar=of_every_height(published.data.lidar))
    return dataclasses.replace(published, config=config, data=data)


def prepared(theirs: State) -> State:
    return prepared_branch(theirs, "", COLUMNS, LIDAR_COLUMNS)


def prepared_branch(theirs: State, prefix: str, columns: Sequence[Column], ours: Sequence[str]) -> State:
    """With a first layer of points that reads our columns, and kernels of the sparse convolutions in torch's order."""
    linear, mean = f"{prefix}vfe.pfn_layers.0.linear.weight", f"{prefix}vfe.pfn_layers.0.norm.running_mean"
    probe = f"{prefix}backbone_3d.conv2.0.0.weight"
    if not {linear, mean, probe} <= set(theirs):
        return theirs  # the table will tell
    weight, centre = point_layer(theirs[linear], theirs[mean], columns, ours)
    sparse = [n for n in theirs if n.startswith(tuple(f"{prefix}backbone_3d.conv{i}." for i in range(1, 5)))]
    kernels = [name for name in sparse if theirs[name].ndim == 4]
    return theirs | dense_kernels({name: theirs[name] for name in kernels}, probe) | {linear: weight, mean: centre}


def table() -> Table:
    return branch_table("", WHOLE)


def branch_table(prefix: str, whole: tuple[str, ...]) -> Table:
    """Names of a PillarNet-18 under a prefix of theirs."""
    modules = {"vfe.pfn_layers.0": "pillars.layers.0"}
    folded: dict[str, str] = {}
    for stage in range(1, 6):
        first = 0 if stage == 1 else 1  # behind the convolution that changes the size
        dense = stage == 5
        theirs, ours = f"backbone_3d.conv{stage}", f"backbone.conv{stage}"
        if first:
            modules |= {f"{theirs}.0.0": f"{ours}.0.0" if dense else f"{ours}.down.conv"}
            modules |= {f"{theirs}.0.1": f"{ours}.0.1" if dense else f"{ours}.norm"}
        for block in range(2):
            block_of_theirs = f"{theirs}.{block + first}"
            own = f"{ours}.{block + 1}" if dense else f"{ours}.blocks.{block}"
            names = (
                ("conv1.0", "conv1.1", "conv2", "norm2") if dense else ("conv1.conv", "norm1", "conv2.conv", "norm2")
            )
            for name, part in zip(("conv1", "bn1", "conv2", "bn2"), names, strict=True):
                modules[f"{block_of_theirs}.{name}"] = f"{own}.{part}"
            for i in (1, 2):
                folded[f"{block_of_theirs}.conv{i}.bias"] = f"{block_of_theirs}.bn{i}.running_mean"
    for block in range(2):
        for i in range(6):  # theirs begin with a padding, which here is the convolution's own
            modules |= {f"backbone_2d.blocks.{block}.{1 + 3 * i + j}": f"neck.block{block}.{i}.{j}" for j in range(2)}
    modules |= {f"backbone_2d.deblocks.0.{i}": f"neck.deblock.{i}" for i in range(2)}
    modules |= {f"dense_head.shared_conv.{i}": f"head.shared.{i}" for i in range(2)}
    folded["dense_head.shared_conv.0.bias"] = "dense_head.shared_conv.1.running_mean"
    changed: dict[str, Change] = {}
    for task in range(len(SIX_TASKS)):
        branches = {ours: f"dense_head.heads_list.{task}.{name}" for ours, name in HEAD.items()}
        for ours, name in branches.items():
            own = f"head.branches.{task}.{ours}"
            modules |= {f"{name}.0.0": f"{own}.0.0", f"{name}.0.1": f"{own}.0.1", f"{name}.1": f"{own}.1"}
            folded[f"{name}.0.0.bias"] = f"{name}.0.1.running_mean"
        changed |= box_changes({ours: f"{name}.1" for ours, name in branches.items()}, BOXES_OPENPCDET)
    return Table(
        {f"{prefix}{theirs}": ours for theirs, ours in modules.items()},
        {f"{prefix}{name}": change for name, change in changed.items()},
        {f"{prefix}{bias}": f"{prefix}{mean}" for bias, mean in folded.items()},
        whole=whole,
    )
