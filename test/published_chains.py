"""Converted networks stage by stage beside what the authors' code gave for the same weights and inputs.

    PYTHONPATH=. python test/published_chains.py [NAME ...]

prints it for the recordings of full size; the tests take the small ones. A stage is a name of the recording and how far
ours is off there, in units of the stage's largest value; `boxes` are in metres, metres per second and radians.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import published_bevdepth
import torch
from published import (
    NOMINAL,
    TASKS,
    Golden,
    boxes_to_ego,
    decoded,
    heads,
    lidar_inputs,
    matched,
    published_state,
)
from published_images import bevdet4d_full, bevdet4d_small, bevdet_full, bevdet_small, mmdet3d_boxes
from published_pillarnet import openpcdet_boxes, pillarnet_full, pillarnet_small

from bev_perception.model_spec import CLASSES
from training.convert import bevdepth, bevdet, centerpoint, pillarnet
from training.convert.conversion import convert
from training.convert.layers import BOXES_MMDET3D, BOXES_OPENPCDET, Change
from training.models.center_head import BRANCHES
from training.models.detector import Prediction
from training.recipes.specs import CIRCLES
from training.trainer.network import Network

Stages = Iterator[tuple[str, float]]


IN_REPOSITORY = {"bevdepth_r50": False, "bevdepth_r50_da": True}  # recorded in test/recordings: whether it refines


def converted(name: str, state: str, published_grid: bool = True) -> Network:
    """A network with the weights of a recording, in the recording's frame."""
    if name in IN_REPOSITORY:
        return convert(published_bevdepth.bevdepth_state(IN_REPOSITORY[name]), name)[0]
    return convert(published_state(state), name, published_grid, NOMINAL)[0]


# ---- CenterPoint ----------------------------------------------------------------------------------------------------

DET3D = ("reg", "height", "dim", "rot", "vel", "hm")


def centerpoint_reader(network: torch.nn.Module) -> Stages:
    """Pillars with fewer points than 20, as many and more."""
    golden = Golden("centerpoint_pillar")
    for prefix, stage in (("crowded/", "crowded/reader.output"), ("", "reader.output (pillars in voxel order)")):
        points = network.turn.inputs(lidar_inputs(golden[f"{prefix}points"]))["lidar"]
        canvas, _ = network.pillars(points, 1)
        _, row, column = golden[f"{prefix}voxel_coords_zyx"].T
        yield stage, golden.off(stage, canvas[0][:, row, column].T)


def centerpoint_rest(
    network: torch.nn.Module, golden: Golden, canvas: torch.Tensor, neck: torch.Tensor | None
) -> Stages:
    """neck: a head input of its own."""
    maps = network.encoder(canvas)
    for i in range(3):
        yield f"neck.blocks.{i}", golden.off(f"neck.blocks.{i}", maps[f"encoder{i + 1}"])
    yield "neck.output", golden.off("neck.output", maps["neck"])
    neck = maps["neck"] if neck is None else neck
    yield "bbox_head.shared_conv", golden.off("bbox_head.shared_conv", network.head.shared(neck))
    yield from heads(golden, "bbox_head.tasks", DET3D, network.head(neck), pcdet=False)


def centerpoint_small(network: torch.nn.Module) -> Stages:
    golden = Golden("centerpoint_pillar_small")
    yield from centerpoint_reader(network)
    yield from centerpoint_rest(
        network, golden, golden.input("neck.input", "neck"), golden.input("bbox_head.input", "bbox_head")
    )
    by_rule = decoded_by_rule(network, centerpoint.HEAD, BOXES_MMDET3D, (1.9, 4.5, 1.7))
    for nms in ("circle", "rotate"):
        yield from det3d_boxes(network, Golden("centerpoint_pillar"), by_rule, f"decode/rule_{nms}")


def centerpoint_full(network: torch.nn.Module) -> Stages:
    golden = Golden("centerpoint_pillar")
    yield from centerpoint_reader(network)
    inputs = lidar_inputs(golden["points"])
    canvas, _ = network.pillars(network.turn.inputs(inputs)["lidar"], 1)
    yield "backbone.canvas", golden.off("backbone.canvas", canvas)
    yield from centerpoint_rest(network, golden, canvas, None)
    prediction = network(inputs, None)
    for nms in ("circle", "rotate"):
        yield from det3d_boxes(network, golden, prediction, f"decode/network_{nms}")


def det3d_boxes(network: torch.nn.Module, golden: Golden, prediction: Prediction, which: str) -> Stages:
    """The boxes that the published decoder gives, circles or overlaps by task. It takes the best class of each cell;
    what other classes of its task see there goes, because it lies where that one does."""
    theirs = golden[f"{which}/box3d_lidar"].astype(np.float64)  # x y z w l h vx vy r
    yaw = -theirs[:, 8] - np.pi / 2
    theirs = boxes_to_ego(np.column_stack([theirs[:, :3], theirs[:, [4, 3, 5]], yaw, theirs[:, 6:8]]))
    theirs = np.column_stack([theirs, golden[f"{which}/labels"]])
    found = decoded(network, prediction, CIRCLES if which.endswith("circle") else None)
    yield f"{which}: boxes", matched(found, theirs)


def decoded_by_rule(
    network: torch.nn.Module, names: dict[str, str], boxes: Mapping[str, Change], sizes: tuple[float, float, float]
) -> Prediction:
    """Head maps drawn by the recording's rule, brought to our channels by the converter's table, and turned."""
    side = network.spec.grid.shape
    drawn = {
        "heatmap": lambda rng, shape: -4 + 0.8 * rng.standard_normal(shape),
        "reg": lambda rng, shape: rng.uniform(0, 1, shape),
        "height": lambda rng, shape: -1 + 0.3 * rng.standard_normal(shape),
        "dim": lambda rng, shape: np.log(sizes).reshape(1, 3, 1, 1) + 0.2 * rng.standard_normal(shape),
        "rot": lambda rng, shape: rng.standard_normal(shape),
        "vel": lambda rng, shape: 2 * rng.standard_normal(shape),
        "iou": lambda rng, shape: rng.uniform(-1, 1, shape),
    }
    channels = {"reg": 2, "height": 1, "dim": 3, "rot": 2, "vel": 2, "iou": 1}
    heatmaps, regression, iou = {}, [], []
    for task, classes in enumerate(TASKS):
        maps = {}
        for ours, theirs in names.items():
            rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"decode/{task}/{theirs}".encode())))
            shape = (1, channels.get(ours, len(classes)), *side)
            value = torch.from_numpy(drawn[ours](rng, shape).astype(np.float32))[0]
            maps[ours] = boxes[ours](value) if ours in boxes else value
        heatmaps |= dict(zip(classes, maps["heatmap"]))
        regression.append(torch.cat([maps[name] for name in BRANCHES]))
        iou += [maps["iou"]] if "iou" in maps else []
    aux = {"iou": torch.cat(iou)[None]} if iou else {}
    heatmap = torch.stack([heatmaps[name] for name in CLASSES])[None]
    return network.turn.prediction(Prediction(heatmap, torch.stack(regression)[None], aux=aux))


def bevdet_small_decoded(network: torch.nn.Module) -> Stages:
    yield from bevdet_small(network)
    by_rule = decoded_by_rule(network, bevdet.HEAD, BOXES_MMDET3D, (1.9, 4.5, 1.7))
    yield from mmdet3d_boxes(network, Golden("bevdet_r50"), by_rule, "decode/rule")


def bevdepth_small_decoded(network: torch.nn.Module) -> Stages:
    yield from published_bevdepth.small(network)
    yield from published_bevdepth.by_rule(network, decoded_by_rule(network, bevdepth.HEAD, {}, (4.5, 1.9, 1.7)))


RADAR = ("radar_", "radardistill_radar")


def pillarnet_small_decoded(network: torch.nn.Module, prefix: str = "", name: str = "pillarnet18_lidar") -> Stages:
    yield from pillarnet_small(network, prefix, name)
    by_rule = decoded_by_rule(network, pillarnet.HEAD, BOXES_OPENPCDET, (4.5, 1.9, 1.7))
    yield from openpcdet_boxes(network, Golden(name), by_rule, "decode/rule")


def radardistill_small_decoded(network: torch.nn.Module) -> Stages:
    yield from pillarnet_small_decoded(network, *RADAR)


def radardistill_full(network: torch.nn.Module) -> Stages:
    yield from pillarnet_full(network, *RADAR)


# Name -> state file, chain of the small recordings, of the full ones.
CHAINS: dict[str, tuple[str, Callable[[torch.nn.Module], Stages], Callable[[torch.nn.Module], Stages]]] = {
    "centerpoint_pillar": ("centerpoint_pillar", centerpoint_small, centerpoint_full),
    "pillarnet18": ("pillarnet18_lidar", pillarnet_small_decoded, pillarnet_full),
    "radardistill": ("radardistill", radardistill_small_decoded, radardistill_full),
    "bevdet_r50": ("bevdet_r50", bevdet_small_decoded, bevdet_full),
    "bevdet4d_r50": ("bevdet4d_r50", bevdet4d_small, bevdet4d_full),
    "bevdepth_r50": ("", bevdepth_small_decoded, published_bevdepth.full),
    "bevdepth_r50_da": ("", bevdepth_small_decoded, published_bevdepth.full),
}


@torch.no_grad()
def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    for name in names or list(CHAINS):
        state, _, full = CHAINS[name]
        started = time.monotonic()
        for stage, off in full(converted(name, state).detector):
            print(f"{name:20} {off:8.1e}  {stage}", flush=True)
        print(f"{name:20} {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
