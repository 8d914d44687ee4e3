"""BEVDepth (Li et al., AAAI 2023), as github.com/Megvii-BaseDetection/BEVDepth saves it (mmdet3d 1.0.0rc4).

Its configurations are bevdepth/exps/nuscenes/mv/bev_depth_lss_r50_256x704_128x128_24e_2key.py, without refinement along
the rays, and ..._20e_cbgs_2key_da.py, which refines every row; each with and without `_ema`. The network computes in
the vehicle's frame with rows along y and columns along x: kernels over its maps are transposed, boxes stay as they are.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from training.convert.layers import Change
from training.convert.reading import State
from training.convert.table import Table
from training.experiments import bevdepth
from training.models.detector import SIX_TASKS
from training.models.frame import Frame
from training.models.temporal_fusion import TemporalConfig
from training.run import Run

HEAD = {name: name for name in ("heatmap", "reg", "height", "dim", "rot", "vel")}
BACKBONE, TRUNK = "model.backbone", "model.head"
DEPTH, AGGREGATION = f"{BACKBONE}.depth_net", f"{BACKBONE}.depth_aggregation_net"
DEFORMABLE = f"{DEPTH}.depth_conv.4"
# The geometry that the file holds as buffers, and the network here has built in.
CELL_SIZES, FIRST_CELL, CELLS = (0.8, 0.8, 8.0), (-50.8, -50.8, -1.0), (128, 128, 1)
Z_RANGE = (-5.0, 3.0)
DEPTHS, STRIDE = (2.0, 58.0, 0.5), 16
TEMPORAL = TemporalConfig("concat", unseen="current")


def released(run: Run, rows: bool) -> Run:
    """An experiment of this family as the released code builds it."""
    camera = run.config.camera
    camera = dataclasses.replace(
        camera,
        image=dataclasses.replace(camera.image, exchanged_statistics=True),
        depth_net=dataclasses.replace(camera.depth_net, camera="calibration"),
        refine=rows, rows=rows, frustum="lss", z_range=Z_RANGE,
    )  # fmt: skip
    return dataclasses.replace(run, config=dataclasses.replace(run.config, camera=camera, temporal=TEMPORAL))


def run(frame: Frame) -> Run:
    """The experiment `r50_keyframes`; the network computes in no frame but the vehicle's."""
    return released(bevdepth.r50_keyframes(), rows=False)


def run_refined(frame: Frame) -> Run:
    """The experiment `r50`, every row refined."""
    return released(bevdepth.r50(), rows=True)


def prepared(theirs: State) -> State:
    """A bias of zero for the deformable convolution, which has none there."""
    kernel = theirs.get(f"{DEFORMABLE}.weight")
    return dict(theirs) if kernel is None else {**theirs, f"{DEFORMABLE}.bias": kernel.new_zeros(kernel.shape[0])}


def frustum(height: int, width: int) -> Tensor:
    """(D, h, w, 4): column and row in the image, depth in m, 1, of every point."""
    rows, columns = (torch.linspace(0, n - 1, n // STRIDE) for n in (height, width))
    depth, row, column = torch.meshgrid(torch.arange(*DEPTHS), rows, columns, indexing="ij")
    return torch.stack([column, row, depth, torch.ones_like(depth)], dim=-1)


def transposed(kernel: Tensor) -> Tensor:
    """Over rows y and columns x -> over rows x and columns y."""
    return kernel.transpose(-1, -2)


def as_convolution(kernel: Tensor) -> Tensor:
    """A transposed convolution of stride 1, (in, out, 1, 1) -> a convolution."""
    return kernel.transpose(0, 1)


def as_linear(kernel: Tensor) -> Tensor:
    """A 1x1 convolution of a vector -> a linear layer."""
    return kernel.flatten(1)


def without_age(kernel: Tensor) -> Tensor:
    """Besides both maps ours reads where the earlier one was seen and its age: two inputs without weight."""
    return F.pad(kernel, (0, 0, 0, 0, 0, 2))


def depth_modules() -> dict[str, str]:
    modules = {
        f"{DEPTH}.reduce_conv": "camera.depth.reduce",
        f"{DEPTH}.bn": "camera.depth.camera_norm",
        f"{DEPTH}.context_conv": "camera.depth.context",
        f"{DEPTH}.depth_conv": "camera.depth.depth",
        f"{DEFORMABLE}.conv_offset": "camera.depth.depth.4.offset",
    }
    for gate in ("depth", "context"):
        for theirs, layer in (("mlp.fc1", 0), ("mlp.fc2", 2), ("se.conv_reduce", 3), ("se.conv_expand", 5)):
            modules[f"{DEPTH}.{gate}_{theirs}"] = f"camera.depth.{gate}_gate.layers.{layer}"
    pyramid, ours = f"{DEPTH}.depth_conv.3", "camera.depth.depth.3"
    for i in range(4):
        branch = f"{ours}.branches.{i}"
        modules |= {f"{pyramid}.aspp{i + 1}.atrous_conv": f"{branch}.0", f"{pyramid}.aspp{i + 1}.bn": f"{branch}.1"}
    modules |= {f"{pyramid}.global_avg_pool.{i + 1}": f"{ours}.mean.{i}" for i in range(2)}
    return modules | {f"{pyramid}.{name}": f"{ours}.join.{i}" for i, name in enumerate(("conv1", "bn1"))}


def table() -> Table:
    modules = {
        f"{BACKBONE}.img_backbone": "camera.image.backbone",
        f"{BACKBONE}.img_neck": "camera.image.neck",
        f"{TRUNK}.trunk.conv1": "tail.encoder.stem.0",
        f"{TRUNK}.trunk.bn1": "tail.encoder.stem.1",
        f"{TRUNK}.neck": "tail.encoder.neck",
        f"{TRUNK}.shared_conv.conv": "tail.head.shared.0",
        f"{TRUNK}.shared_conv.bn": "tail.head.shared.1",
    } | depth_modules()
    modules |= {f"{TRUNK}.trunk.layer{i + 1}": f"tail.encoder.stages.{i}" for i in range(3)}
    for task in range(len(SIX_TASKS)):
        for ours, name in HEAD.items():
            their, branch = f"{TRUNK}.task_heads.{task}.{name}", f"tail.head.branches.{task}.{ours}"
            modules |= {
                f"{their}.0.conv": f"{branch}.0.0",
                f"{their}.0.bn": f"{branch}.0.1",
                f"{their}.1": f"{branch}.1",
            }
    changed: dict[str, Change] = {f"{BACKBONE}.img_neck.deblocks.2.0.weight": as_convolution}
    for gate in (f"{DEPTH}.depth_se", f"{DEPTH}.context_se"):
        changed |= {f"{gate}.{name}.weight": as_linear for name in ("conv_reduce", "conv_expand")}
    changed |= {name: transposed for name in map_kernels()}
    changed[f"{TRUNK}.trunk.conv1.weight"] = lambda kernel: without_age(transposed(kernel))
    changed[f"{TRUNK}.neck.deblocks.0.0.weight"] = lambda kernel: without_age(as_convolution(kernel))
    image = bevdepth.r50().spec.image
    geometry = {
        f"{BACKBONE}.voxel_size": torch.tensor(CELL_SIZES),
        f"{BACKBONE}.voxel_coord": torch.tensor(FIRST_CELL),
        f"{BACKBONE}.voxel_num": torch.tensor(CELLS),
        f"{BACKBONE}.frustum": frustum(image.height, image.width),
    }
    folded = {f"{DEPTH}.reduce_conv.0.bias": f"{DEPTH}.reduce_conv.1.running_mean"}
    return Table(modules, changed, folded, geometry, whole=("model.",))


def map_kernels() -> list[str]:
    """Kernels over BEV maps that are larger than one cell; `table` has the stem's and the first of the neck."""
    names = [f"{TRUNK}.neck.deblocks.{i}.0.weight" for i in (1, 2, 3)] + [f"{TRUNK}.shared_conv.conv.weight"]
    for layer, block, conv in ((i, j, k) for i in (1, 2, 3) for j in (0, 1) for k in (1, 2)):
        names.append(f"{TRUNK}.trunk.layer{layer}.{block}.conv{conv}.weight")
    for task, name in ((t, n) for t in range(len(SIX_TASKS)) for n in HEAD.values()):
        names += [f"{TRUNK}.task_heads.{task}.{name}.{layer}.weight" for layer in ("0.conv", "1")]
    return names


def refined_table() -> Table:
    """With the convolutions over (column, depth) planes, which here are over (depth, column)."""
    plain = table()
    layers = {"reduce_conv": "reduce", "conv.0": "conv.0.0", "conv.1": "conv.0.1", "conv.3": "conv.1.0",
              "conv.4": "conv.1.1", "out_conv.0": "out"}  # fmt: skip
    modules = {f"{AGGREGATION}.{theirs}": f"camera.refine.{ours}" for theirs, ours in layers.items()}
    kernels = [f"{AGGREGATION}.{name}.weight" for name in ("reduce_conv.0", "conv.0", "conv.3", "out_conv.0")]
    changed = {**plain.changed, **dict.fromkeys(kernels, transposed)}
    return dataclasses.replace(plain, modules={**plain.modules, **modules}, changed=changed)
