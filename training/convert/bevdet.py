"""BEVDet (Huang et al., 2021), as github.com/HuangJunJie2017/BEVDet of version 1.0 (mmdet3d 0.17) saves it.

Its configuration is configs/bevdet/bevdet-r50.py.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from training.convert.layers import BOXES_MMDET3D, Change, box_changes
from training.convert.reading import State
from training.convert.table import Table
from training.experiments import bevdet
from training.models.detector import SIX_TASKS
from training.models.frame import Frame
from training.recipes.camera import BEVDET_IMAGE
from training.run import Run

HEAD = {"heatmap": "heatmap", "reg": "reg", "height": "height", "dim": "dim", "rot": "rot", "vel": "vel"}
# The geometry that the file holds as parameters, and the network here has built in: sizes, centre of the first and
# number of the cells along x, y, z; depths of the bins; stride of the features.
CELL_SIZES, FIRST_CELL, CELLS = (0.8, 0.8, 20.0), (-50.8, -50.8, 0.0), (128, 128, 1)
DEPTHS, STRIDE = (1.0, 60.0, 1.0), 16


def released(run: Run, frame: Frame) -> Run:
    """An experiment of this family as the released code builds and tests it."""
    config = run.config
    config = dataclasses.replace(
        config,
        camera=dataclasses.replace(config.camera, frustum="lss"),
        encoder=dataclasses.replace(config.encoder, plain_shortcuts=True),
        frame=frame,
    )
    return dataclasses.replace(run, config=config)


def run(frame: Frame) -> Run:
    """The network, and what it is shown: the experiment `r50` as released."""
    return released(bevdet.r50(), frame)


def prepared(theirs: State) -> State:
    """Nothing is made of several tensors here."""
    return theirs


def frustum() -> Tensor:
    """(D, h, w, 3): column and row in the image, depth in m, of every point."""
    depths = torch.arange(*DEPTHS)
    rows, columns = (torch.linspace(0, n - 1, n // STRIDE) for n in (BEVDET_IMAGE.height, BEVDET_IMAGE.width))
    depth, row, column = torch.meshgrid(depths, rows, columns, indexing="ij")
    return torch.stack([column, row, depth], dim=-1)


def red_last(weight: Tensor) -> Tensor:
    """Images are RGB there and BGR here; the first convolution's inputs change places."""
    return weight.flip(1)


def table() -> Table:
    modules = {
        "img_backbone": "camera.image.backbone",
        "img_neck.lateral_convs.0.conv": "camera.image.neck.lateral.0",
        "img_neck.lateral_convs.1.conv": "camera.image.neck.lateral.1",
        "img_neck.fpn_convs.0.conv": "camera.image.neck.smooth.0",
        "img_view_transformer.depthnet": "camera.depth.conv",
        "img_bev_encoder_backbone.layers": "tail.encoder.stages",
        "img_bev_encoder_neck.conv.0": "tail.encoder.join.conv1.0",
        "img_bev_encoder_neck.conv.1": "tail.encoder.join.conv1.1",
        "img_bev_encoder_neck.conv.3": "tail.encoder.join.conv2.0",
        "img_bev_encoder_neck.conv.4": "tail.encoder.join.conv2.1",
        "img_bev_encoder_neck.up2.1": "tail.encoder.out.0.0",
        "img_bev_encoder_neck.up2.2": "tail.encoder.out.0.1",
        "img_bev_encoder_neck.up2.4": "tail.encoder.out.1",
        "pts_bbox_head.shared_conv.conv": "tail.head.shared.0",
        "pts_bbox_head.shared_conv.bn": "tail.head.shared.1",
    }
    changed: dict[str, Change] = {"img_backbone.conv1.weight": red_last}
    for task in range(len(SIX_TASKS)):
        theirs = {ours: f"pts_bbox_head.task_heads.{task}.{name}" for ours, name in HEAD.items()}
        for ours, name in theirs.items():
            branch = f"tail.head.branches.{task}.{ours}"
            modules |= {f"{name}.0.conv": f"{branch}.0.0", f"{name}.0.bn": f"{branch}.0.1", f"{name}.1": f"{branch}.1"}
        changed |= box_changes({ours: f"{name}.1" for ours, name in theirs.items()}, BOXES_MMDET3D)
    geometry = {
        "img_view_transformer.dx": torch.tensor(CELL_SIZES),
        "img_view_transformer.bx": torch.tensor(FIRST_CELL),
        "img_view_transformer.nx": torch.tensor(CELLS),
        "img_view_transformer.frustum": frustum(),
    }
    whole = ("img_backbone.", "img_neck.", "img_view_transformer.", "img_bev_encoder", "pts_bbox_head.")
    return Table(modules, changed, constant=geometry, whole=whole)
