"""RadarDistill's radar student (Bang et al., CVPR 2024), as github.com/geonhobang/RadarDistill (OpenPCDet) saves it.

Its configuration is tools/cfgs/radar_distill/radar_distill_train.yaml. Names of the student begin with `radar_`; the
teacher beside it is read as pillarnet18.
"""

from __future__ import annotations

import dataclasses

from torch import Tensor

from training.convert.layers import RADAR_COLUMNS, same
from training.convert.pillarnet import CENTRE, MEAN_AND_CORNER, branch_table, prepared_branch
from training.convert.reading import State
from training.convert.table import Table
from training.experiments import radar_pillarnet
from training.experiments.pillarnet import EVERY_HEIGHT
from training.models.frame import Frame
from training.run import Run

PREFIX = "radar_"
COLUMNS = (*CENTRE, *same("y", "x", "z", "rcs", "vy", "vx"), *MEAN_AND_CORNER)
BODY = {"dwconv": "depthwise", "norm": "norm", "pwconv1": "expand", "grn": "response", "pwconv2": "reduce"}


def run(frame: Frame) -> Run:
    """The network, and what it is shown: the experiment `radar18` of the radar student in `frame`."""
    published = radar_pillarnet.radar18()
    return dataclasses.replace(
        published, config=dataclasses.replace(published.config, z_range=EVERY_HEIGHT, frame=frame)
    )


def prepared(theirs: State) -> State:
    return prepared_branch(theirs, PREFIX, COLUMNS, RADAR_COLUMNS)


def as_convolution(weight: Tensor) -> Tensor:
    """A linear layer over channels that lie last -> a 1x1 convolution."""
    return weight[..., None, None]


def channels_second(parameter: Tensor) -> Tensor:
    """(1, 1, 1, C) -> (1, C, 1, 1)."""
    return parameter.permute(0, 3, 1, 2)


def table() -> Table:
    """PillarNet-18's, and Cross-Modality Alignment between its backbone and its neck."""
    pillarnet = branch_table(PREFIX, (PREFIX,))
    modules, changed, folded = dict(pillarnet.modules), dict(pillarnet.changed), dict(pillarnet.folded)
    for i in (1, 2, 3):
        theirs, ours = f"{PREFIX}backbone_2d.encoder_{i}", f"cma.encoder{i}"
        # The deformable convolution adds a bias that training never changed: it is part of what was trained on top.
        modules |= {f"{theirs}.0.down_layer": f"{ours}.0", f"{theirs}.0.conv_offset_mask1": f"{ours}.0.offset"}
        for body in range(2):
            for name, own in BODY.items():
                modules[f"{theirs}.{body}.{name}"] = f"{ours}.{body + 1}.{own}"
            changed |= {f"{theirs}.{body}.{name}.weight": as_convolution for name in ("pwconv1", "pwconv2")}
            changed |= {f"{theirs}.{body}.grn.{name}": channels_second for name in ("gamma", "beta")}
        for name, own in ((f"decoder_{i}", f"decoder{i}"), (f"agg_{i}", f"aggregate{i}.layers")):
            layer = f"{PREFIX}backbone_2d.{name}"
            modules |= {f"{layer}.{part}": f"cma.{own}.{part}" for part in range(2)}
            folded[f"{layer}.0.bias"] = f"{layer}.1.running_mean"
    # What tells the neck which share of the radars is dead is not in the paper; it begins as zeros, without effect.
    return Table(modules, changed, folded, fresh=("deaf",), whole=pillarnet.whole)
