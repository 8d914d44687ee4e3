"""PillarNet-18 and RadarDistill's student: their chains of stages (see published_chains.py)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from published import TASKS, Golden, boxes_to_ego, candidates, heads, lidar_inputs, matched, to_ego

from bev_perception.model_spec import CLASSES
from bev_perception.nms import rotated_nms
from bev_perception.preprocess.radar import group_pillars
from training.models.detector import Prediction
from training.recipes.specs import OVERLAPS

Stages = Iterator[tuple[str, float]]
OPENPCDET = ("center", "center_z", "dim", "rot", "vel", "iou", "hm")
INPUT = "features.input (y, x, channel), zero where the mask is off"


def radar_inputs(network: torch.nn.Module, points: np.ndarray) -> dict[str, torch.Tensor]:
    """(P, 6) in LIDAR_TOP: x y z rcs vx vy -> the radar inputs of the network's spec, as the vehicle groups them."""
    age = np.zeros((len(points), 1))
    columns = (to_ego(points[:, :3]), points[:, 3:4], points[:, 5:6], -points[:, 4:5], age)
    arrays, lost = group_pillars(np.concatenate(columns, axis=1).astype(np.float32), network.spec)
    assert not lost, lost
    return {n: torch.from_numpy(a)[None] for n, a in arrays.items()} | {
        "radar_valid": torch.ones(1, len(network.spec.radars))
    }


def drawn_pillars(golden: Golden, prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (1, 32, 96, 128) and mask (1, 1, 96, 128) of a small recording."""
    mask = torch.from_numpy(golden["mask"]).float()
    features = golden.drawn(INPUT, f"{prefix}features").clamp(min=0) * mask[..., None]
    assert golden.off(INPUT, features) == 0
    return features.permute(2, 0, 1)[None].contiguous(), mask[None, None]


def rest(network: torch.nn.Module, golden: Golden, pillars: tuple[torch.Tensor, torch.Tensor], prefix: str) -> Stages:
    """Backbone, alignment where there is one, neck, head."""
    backbone, neck = network.backbone, network.neck
    maps = backbone(*pillars)
    for i in range(1, 6):
        stage = f"{prefix}backbone_3d.x_conv{i}"
        yield stage, golden.off(stage, maps[f"conv{i}"])
    low = maps["conv4"]
    if prefix:
        aligned = network.cma(maps["conv4"])
        for i, found in enumerate(aligned):
            stage = f"radar_backbone_2d.radar_spatial_features_8x_{i + 1}"
            yield stage, golden.off(stage, found)
        low = aligned[1]
    up = neck.up(maps["conv5"])
    joined = neck.join(low, up)
    for name, found in (("spatial_features_2d_8x", up), ("spatial_features_2d", joined)):
        stage = f"{prefix}backbone_2d.{prefix}{name}"
        yield stage, golden.off(stage, found)
    shared = f"{prefix}dense_head.shared_conv"
    yield shared, golden.off(shared, network.head.shared(joined))
    yield from heads(golden, f"{prefix}dense_head.heads_list", OPENPCDET, network.head(joined), pcdet=True)


def openpcdet_boxes(network: torch.nn.Module, golden: Golden, prediction: Prediction, which: str) -> Stages:
    """What enters NMS: the 500 best of each class, then of the task, above 0.1 by the heatmap alone."""
    for task, names in enumerate(TASKS):
        theirs = golden[f"{which}/candidates/{task}"].astype(np.float64)  # x y z l w h yaw vx vy score label
        boxes, scores, labels = candidates(prediction, network.spec.grid, task)
        iou = ((prediction.aux["iou"][0, task].double().numpy() + 1) / 2).clip(0, 1).ravel()
        rows = scores.reshape(len(names), -1)
        order = np.concatenate(
            [i * rows.shape[1] + np.argsort(-row, kind="stable")[:500] for i, row in enumerate(rows)]
        )
        order = order[np.argsort(-scores[order], kind="stable")][:500]
        order = order[scores[order] > 0.1]
        rectified = np.sqrt(scores[order] * np.tile(iou, len(names))[order])
        found = np.column_stack([boxes[order], rectified, labels[order] - min(labels)])
        theirs = np.column_stack([boxes_to_ego(theirs[:, :9]), theirs[:, 9:11]])
        yield f"{which}: boxes of task {task} before NMS", matched(found, theirs)
        found = found[np.argsort(-found[:, 9], kind="stable")]
        together = np.zeros(len(found), dtype=int)
        staying = found[rotated_nms(found[:, :7], together, together + OVERLAPS[task].iou)][: OVERLAPS[task].most]
        labels = golden[f"{which}/pred_labels_from_1"] - 1
        # Without an IoU the score is 0, and of such boxes none comes before another.
        staying = staying[staying[:, 9] > 0]
        of = np.isin(labels, [CLASSES.index(name) for name in names]) & (golden[f"{which}/pred_scores"] > 0)
        theirs = np.column_stack([boxes_to_ego(golden[f"{which}/pred_boxes"][of].astype(np.float64)), labels[of]])
        found = np.column_stack([staying[:, :9], staying[:, 10] + CLASSES.index(names[0])])
        yield f"{which}: boxes of task {task}", matched(found, theirs)


def reader(network: torch.nn.Module, golden: Golden, prefix: str) -> tuple[dict[str, torch.Tensor], tuple, Stages]:
    points = golden["points"]
    inputs = radar_inputs(network, points) if prefix else lidar_inputs(points)
    turned = network.turn.inputs(inputs)
    if prefix:
        pillars = network.pillars(turned["radar_points"], turned["radar_counts"], turned["radar_cells"])
    else:
        pillars = network.pillars(turned["lidar"], 1)
    name = next(stage for stage in golden.stages if "vfe" in stage or "pillar_features" in stage)
    _, row, column = _coordinates(golden)
    return inputs, pillars, iter([(name, golden.off(name, pillars[0][0][:, row, column].T))])


def _coordinates(golden: Golden) -> np.ndarray:
    found = golden["pillar_coords_byx"] if "full/pillar_coords_byx" in golden.arrays else golden["voxel_coords_zyx"]
    return np.asarray(found.T)


def pillarnet_small(network: torch.nn.Module, prefix: str = "", name: str = "pillarnet18_lidar") -> Stages:
    small, full = Golden(f"{name}_small"), Golden(name)
    yield from reader(network, full, prefix)[2]
    yield from rest(network, small, drawn_pillars(small, prefix), prefix)


def pillarnet_full(network: torch.nn.Module, prefix: str = "", name: str = "pillarnet18_lidar") -> Stages:
    golden = Golden(name)
    inputs, pillars, first = reader(network, golden, prefix)
    yield from first
    yield from rest(network, golden, pillars, prefix)
    yield from openpcdet_boxes(network, golden, network(inputs, None), "decode/network")
