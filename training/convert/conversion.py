"""Published networks by name, and a published state dict -> a checkpoint of this package."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bev_perception.files import write_atomic
from training.convert import bevdepth, bevdet, bevdet4d, centerpoint, fcos3d, pillarnet, radardistill
from training.convert.reading import State, read_published
from training.convert.table import Report, Table, apply
from training.experiments.pillarnet import of_every_height
from training.models.frame import EGO, LIDAR_TOP, Frame, grid_in
from training.run import Run, build_detector, run_to_plain
from training.trainer.checkpoint import weights_of
from training.trainer.network import Network

CHECKPOINT, REPORT = "last.ckpt", "conversion.json"


@dataclass(frozen=True)
class Family:
    """run: what the checkpoint says of itself, for the network's frame. table: names. prepared: what must be done with
    several tensors together before. published: the file, and what it scores on nuScenes."""

    run: Callable[[Frame], Run]
    table: Callable[[], Table]
    prepared: Callable[[State], State]
    published: str


FAMILIES: dict[str, Family] = {
    "centerpoint_pillar": Family(
        centerpoint.run, centerpoint.table, centerpoint.prepared,
        "tianweiy/CenterPoint, PointPillars with two PFN layers and ten sweeps: 50.3 mAP, 60.2 NDS on the split val",
    ),
    "pillarnet18": Family(
        pillarnet.run, pillarnet.table, pillarnet.prepared,
        "geonhobang/RadarDistill, pillarnet_fullset_lidar.pth, its teacher: no score is published with it",
    ),
    "radardistill": Family(
        radardistill.run, radardistill.table, radardistill.prepared,
        "geonhobang/RadarDistill, radar_distill.pth: 20.5 mAP, 43.7 NDS on the split test",
    ),
    "bevdet_r50": Family(
        bevdet.run, bevdet.table, bevdet.prepared, "HuangJunJie2017/BEVDet 1.0, BEVDet-R50: 29.9 mAP, 37.7 NDS on val"
    ),
    "bevdet4d_r50": Family(
        bevdet4d.run, bevdet4d.table, bevdet.prepared,
        "HuangJunJie2017/BEVDet 1.0, BEVDet4D-R50: 32.2 mAP, 45.7 NDS on val",
    ),
    "bevdepth_r50": Family(
        bevdepth.run, bevdepth.table, bevdepth.prepared,
        "Megvii-BaseDetection/BEVDepth, bev_depth_lss_r50_256x704_128x128_24e_2key.pth: 33.0 mAP, 43.6 NDS on val; "
        "..._ema.pth: 33.3 mAP, 44.1 NDS",
    ),
    "bevdepth_r50_da": Family(
        bevdepth.run_refined, bevdepth.refined_table, bevdepth.prepared,
        "Megvii-BaseDetection/BEVDepth, bev_depth_lss_r50_256x704_128x128_20e_cbgs_2key_da.pth: 34.8 mAP, 48.1 NDS on "
        "val; ..._ema.pth: 35.9 mAP, 48.0 NDS",
    ),
    "fcos3d_r101": Family(
        fcos3d.run, fcos3d.table, fcos3d.prepared,
        "fundamentalvision/BEVFormer, r101_dcn_fcos3d_pretrain.pth: the backbone that BEVFormer starts from, no score",
    ),
}  # fmt: skip


def convert(theirs: State, name: str, published_grid: bool = False, frame: Frame = LIDAR_TOP) -> tuple[Network, Report]:
    """Published tensors -> our network with them, in eval mode, and what became of their names.

    published_grid: cells lie around the LiDAR as in training, for a comparison with the published code; else around
    the rear axle as those of all experiments here, which a teacher's must. frame: what the network computes in.
    Raises ValueError when they do not fit.
    """
    family = FAMILIES[name]
    run = family.run(frame)
    if published_grid:
        run = around_lidar(run)
    network = Network(run, build_detector(run))
    ours, report = apply(family.table(), family.prepared(theirs), network.detector.state_dict())
    network.detector.load_state_dict(ours)
    network.detector.eval()
    return network, report


def around_lidar(run: Run) -> Run:
    """The run with a grid whose edges are the same numbers in the network's frame, and with all points on it. Raises
    ValueError for a network that computes in no frame but the vehicle's."""
    if not hasattr(run.config, "frame"):
        raise ValueError(f"{run.spec.name} has no LiDAR's frame to lay a grid in; leave --published-grid out")
    x, y, z = run.config.frame.origin
    grid = grid_in(dataclasses.replace(EGO, origin=(-x, -y, -z)), run.spec.grid)
    data = run.data
    if data.lidar is not None:
        lidar = of_every_height(data.lidar)
        (_, _, low, _, _, high) = lidar.bounds
        bounds = (grid.x_min, grid.y_min, low, grid.x_max, grid.y_max, high)
        data = dataclasses.replace(data, lidar=dataclasses.replace(lidar, bounds=bounds))
    return dataclasses.replace(run, spec=dataclasses.replace(run.spec, grid=grid), data=data)


def write_checkpoint(network: Network, report: Report, source: Path, name: str, out: Path) -> Path:
    """`out`/last.ckpt, which training.evaluate, --teacher, --init and training.export take, and `out`/conversion.json,
    which says what it was made of."""
    made_of: dict[str, Any] = {
        "as": name, "file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "published": FAMILIES[name].published,
    }  # fmt: skip
    buffer = io.BytesIO()
    plain = run_to_plain(network.run)
    torch.save({"state_dict": weights_of(network.detector), "run": plain, "converted": made_of}, buffer)
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / REPORT, json.dumps(made_of | dataclasses.asdict(report), indent=1) + "\n")
    write_atomic(out / CHECKPOINT, buffer.getvalue())
    return out / CHECKPOINT


def convert_file(source: Path, name: str, out: Path, published_grid: bool = False) -> tuple[Path, Report]:
    """Read, convert, write. Raises what `read_published` raises, and ValueError for a file of another network."""
    theirs = read_published(source)
    try:
        network, report = convert(theirs, name, published_grid)
    except ValueError as error:
        raise ValueError(f"{source}, as {name}: {error}") from error
    return write_checkpoint(network, report, source, name, out), report
