"""Mixed precision is for features: where they are read from is computed in single precision in training, too."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="needs torch")

import torch
from torch import Tensor

from bev_perception.grid import BevGrid
from bev_perception.model_spec import PILLAR_COLUMNS
from training.models.radar_branch import RadarPillars
from training.models.view.attention import deformable_attention
from training.models.view.column_lift import ColumnLift
from training.models.view.depth_bins import DepthBins
from training.models.view.projection import anchor_points, depth_weights, project
from training.models.view.warp import warp_bev

GRID = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)
BINS = DepthBins(1.0, 0.5, 118)


def camera() -> Tensor:
    """(1, 1, 4, 4): a forward camera at nuScenes' focal length in an image of 704 x 256 pixels."""
    cam_from_ego = torch.tensor([[0.0, -1, 0, 0.1], [0, 0, -1, 1.5], [1, 0, 0, -1.7], [0, 0, 0, 1]])
    img_from_cam = torch.eye(4)
    img_from_cam[:2, :3] = torch.tensor([[557.0, 0, 357], [0, 557, 140]])
    return (img_from_cam @ cam_from_ego)[None, None]


CAMERA = camera()


def column_lift(feature: Tensor) -> Tensor:
    return ColumnLift(GRID, BINS).read(feature.reshape(1, 1, 1, 118, 44), CAMERA, torch.ones(1, 1), 704)[0]


def warped(feature: Tensor) -> Tensor:
    c, s = math.cos(0.03), math.sin(0.03)
    motion = torch.eye(4)[None]
    motion[0, :2] = torch.tensor([[c, -s, 0, 3.3], [s, c, 0, 0.2]])
    centers = torch.from_numpy(GRID.centers().reshape(-1, 2)).float()
    return warp_bev(feature[: 128 * 128].reshape(1, 1, 128, 128), motion, torch.ones(1, 1), GRID, centers)[0]


def attended(feature: Tensor) -> Tensor:
    where = torch.rand(1, 50, 2, 3, 2, generator=torch.Generator().manual_seed(1))
    return deformable_attention(feature[: 2 * 44 * 118].reshape(1, 2, 44, 118), where, torch.full((1, 50, 2, 3), 1 / 3))


def seen(feature: Tensor) -> Tensor:
    projected = project(anchor_points(GRID, (0.5,)), CAMERA, torch.ones(1, 1), (256, 704))
    maps = feature[: 118 * 16 * 44].reshape(1, 1, 118, 16, 44)
    return depth_weights(maps, projected, BINS)


def radar_points(feature: Tensor) -> Tensor:
    torch.manual_seed(0)
    layers = RadarPillars(GRID, (8,)).eval()
    points = feature[: 200 * 4 * len(PILLAR_COLUMNS)].reshape(1, 200, 4, len(PILLAR_COLUMNS)) * 50
    return layers(points, torch.full((1, 200), 4), torch.arange(200)[None] * 7)[0]


@pytest.mark.parametrize("read", [column_lift, warped, attended, seen, radar_points])
def test_places_do_not_depend_on_the_precision_of_training(read: Callable[[Tensor], Tensor]) -> None:
    """With features of single precision nothing may change under autocast."""
    feature = torch.randn(118 * 16 * 44, generator=torch.Generator().manual_seed(0))
    if read is column_lift:
        feature = feature[: 118 * 44]
    alone = read(feature)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = read(feature)
    assert alone.abs().amax() > 0.1 and torch.equal(alone, mixed)


def test_half_precision_features_are_read_at_the_same_places() -> None:
    feature = torch.randn(118 * 16 * 44, generator=torch.Generator().manual_seed(0)).bfloat16()
    for read in (attended, seen):
        assert read(feature).float() == pytest.approx(read(feature.float()), abs=0.05)
