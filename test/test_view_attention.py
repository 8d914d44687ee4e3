"""Backward projection, deformable attention and depth weights against loops, in float64."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from torch import nn

from bev_perception.grid import BevGrid
from training.models.view.attention import SpatialCrossAttention, TemporalSelfAttention, deformable_attention
from training.models.view.depth_bins import DepthBins
from training.models.view.projection import anchor_points, depth_weights, project

GRID = BevGrid(-6.4, 6.4, -4.8, 4.8, 3.2)
X, Y = GRID.shape
HEIGHTS = (-1.0, 0.5, 3.0)
SIZE, H, W, C, HEADS = (32, 48), 4, 6, 4, 2
BINS = DepthBins(2.5, 0.75, 4)  # some anchors lie before, some beyond


def rig() -> np.ndarray:
    """(3, 4, 4): two cameras whose views overlap and one that is off; each has anchors behind it."""
    out = []
    for yaw in (0.3, -0.4, 2.5):
        cam_from_ego = np.eye(4)
        cam_from_ego[:3, :3] = [[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]]
        cam_from_ego[:3, 3] = [0, 1.0, 0.2]
        img_from_cam = np.eye(4)
        img_from_cam[:2, :3] = [[20.0, 0, 23.0], [0, 20.0, 16.0]]
        out.append(img_from_cam @ cam_from_ego)
    return np.stack(out)


VALID = torch.tensor([[1.0, 1.0, 0.0]])
RIG = torch.from_numpy(rig())[None]
POINTS = anchor_points(GRID, HEIGHTS).double()
PROJECTED = project(POINTS, RIG, VALID, SIZE)


def bilinear(maps: np.ndarray, x: float, y: float) -> np.ndarray:
    """(C, h, w) read at x, y with the map in [0, 1]; zero outside."""
    h, w = maps.shape[1:]
    column, row = x * w - 0.5, y * h - 0.5
    total = np.zeros(len(maps))
    for r in (int(np.floor(row)), int(np.floor(row)) + 1):
        for c in (int(np.floor(column)), int(np.floor(column)) + 1):
            if 0 <= r < h and 0 <= c < w:
                total += maps[:, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return total


def anchor(camera: int, query: int, j: int) -> tuple[float, float, float, bool]:
    """x, y, depth of a cell's anchor in a camera, and whether the camera sees it."""
    x, y = GRID.centers().reshape(-1, 2)[query]
    u, v, depth, _ = rig()[camera] @ [x, y, HEIGHTS[j], 1.0]
    if depth <= 0.1 or VALID[0, camera] == 0:
        return np.nan, np.nan, depth, False
    column, row = (u / depth + 0.5) / SIZE[1], (v / depth + 0.5) / SIZE[0]
    return column, row, depth, 0 <= column < 1 and 0 <= row < 1


def randomise(module: nn.Module) -> None:
    torch.manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    module.double()


def head_weights(module: nn.Module, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two linear layers by hand: offsets and logits, flat."""
    where = module.where
    out = [
        layer.weight.detach().numpy() @ inputs + layer.bias.detach().numpy() for layer in (where.offsets, where.logits)
    ]
    return out[0], out[1]


def softmax(x: np.ndarray) -> np.ndarray:
    return np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)


def affine(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    """A linear layer or 1 x 1 convolution on (C, ...)."""
    weight = layer.weight.detach().numpy().reshape(C, C)
    return np.tensordot(weight, x, 1) + layer.bias.detach().numpy().reshape(-1, *[1] * (x.ndim - 1))


def test_projection_by_hand() -> None:
    kinds = set()
    for n, q, j in np.ndindex(3, X * Y, len(HEIGHTS)):
        x, y, depth, visible = anchor(n, q, j)
        assert PROJECTED.visible[0, n, q, j] == visible
        np.testing.assert_allclose(PROJECTED.depth[0, n, q, j], depth, atol=1e-6)
        if np.isfinite(x):
            np.testing.assert_allclose(PROJECTED.location[0, n, q, j], [x, y], atol=1e-6)
        else:
            assert (PROJECTED.location[0, n, q, j] < -1).all()
        kinds.add((visible, bool(np.isfinite(x)), bool(depth > 0)))
    assert kinds == {(True, True, True), (False, True, True), (False, False, True), (False, False, False)}


def test_depth_weights_by_hand() -> None:
    generator = torch.Generator().manual_seed(1)
    depth = torch.rand(1, 3, BINS.count, H, W, dtype=torch.float64, generator=generator)
    found = depth_weights(depth, PROJECTED, BINS)[0].numpy()
    beyond = before = 0
    for n, q, j in np.ndindex(3, X * Y, len(HEIGHTS)):
        x, y, metres, _ = anchor(n, q, j)
        of_bin = int(np.clip(np.floor((metres - BINS.start) / BINS.step), 0, BINS.count - 1))
        expected = bilinear(depth[0, n].numpy(), x, y)[of_bin] if np.isfinite(x) else 0.0
        np.testing.assert_allclose(found[n, q, j], expected, atol=1e-6)
        if expected > 0:
            beyond, before = beyond + (metres > BINS.end), before + (metres < BINS.start)
    assert beyond and before, "anchors beyond the last bin and before the first must occur"


def test_deformable_attention_equals_loops() -> None:
    torch.manual_seed(2)
    b, q, p = 2, 3, 4
    value = torch.randn(b, C, H, W, dtype=torch.float64)
    locations = torch.rand(b, q, HEADS, p, 2, dtype=torch.float64) * 1.4 - 0.2  # some outside
    weights = torch.rand(b, q, HEADS, p, dtype=torch.float64)
    found = deformable_attention(value, locations, weights).numpy()
    per_head = C // HEADS
    for i, k, m in np.ndindex(b, q, HEADS):
        channels = slice(m * per_head, (m + 1) * per_head)
        maps = value[i, channels].numpy()
        expected = sum(float(weights[i, k, m, s]) * bilinear(maps, *locations[i, k, m, s].tolist()) for s in range(p))
        np.testing.assert_allclose(found[i, k, channels], expected, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_spatial_cross_attention_equals_loops(weighted: bool) -> None:
    levels, points = 2, 6
    module = SpatialCrossAttention(C, HEADS, levels, len(HEIGHTS), points)
    randomise(module)
    query = torch.randn(1, X * Y, C, dtype=torch.float64)
    features = [torch.randn(1, 3, C, h, w, dtype=torch.float64) for h, w in ((H, W), (H // 2, W // 2))]
    believed = torch.rand(1, 3, X * Y, len(HEIGHTS), dtype=torch.float64)
    found = module(query, features, PROJECTED, believed if weighted else None)[0].detach().numpy()
    hits = []
    for q in range(X * Y):
        offsets, logits = head_weights(module, query[0, q].numpy())
        offsets = offsets.reshape(HEADS, levels, points, 2)
        weights = softmax(logits.reshape(HEADS, levels * points)).reshape(HEADS, levels, points)
        total, hit = np.zeros(C), 0
        for n in range(3):
            anchors = [anchor(n, q, j) for j in range(len(HEIGHTS))]
            if not any(visible for *_, visible in anchors):
                continue
            hit += 1
            for m, level, k in np.ndindex(HEADS, levels, points):
                x, y, _, _ = anchors[k % len(HEIGHTS)]
                if not np.isfinite(x):
                    continue
                value = affine(module.value, features[level][0, n].numpy())
                channels = slice(m * C // HEADS, (m + 1) * C // HEADS)
                dx, dy = offsets[m, level, k]
                sample = bilinear(value[channels], x + dx / value.shape[2], y + dy / value.shape[1])
                scale = float(believed[0, n, q, k % len(HEIGHTS)]) if weighted else 1.0
                total[channels] += scale * weights[m, level, k] * sample
        hits.append(hit)
        np.testing.assert_allclose(found[q], affine(module.output, total / max(hit, 1)), atol=1e-6)
    assert set(hits) == {0, 1, 2}


def test_only_queries_that_hit_a_camera_cost_and_count() -> None:
    """A batch whose frames see different numbers of cells: the padding of the shorter list must add nothing."""
    module = SpatialCrossAttention(C, HEADS, 1, len(HEIGHTS), 3)
    randomise(module)
    query, feature = torch.randn(2, X * Y, C, dtype=torch.float64), torch.randn(2, 3, C, H, W, dtype=torch.float64)
    valid = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    both = module(query, [feature], project(POINTS, RIG.expand(2, -1, -1, -1), valid, SIZE))
    for i in range(2):
        part = slice(i, i + 1)
        alone = module(query[part], [feature[part]], project(POINTS, RIG, valid[part], SIZE))
        torch.testing.assert_close(both[part], alone)
    blind = module(query[:1], [feature[:1]], project(POINTS, RIG, torch.zeros(1, 3), SIZE))
    torch.testing.assert_close(blind, module.output.bias.expand_as(blind))


@pytest.mark.parametrize("valid", [1.0, 0.0])
@pytest.mark.parametrize("other", [False, True])
def test_temporal_self_attention_equals_loops(valid: float, other: bool) -> None:
    points = 3
    module = TemporalSelfAttention(GRID, C, HEADS, points)
    randomise(module)
    query, previous = torch.randn(1, X * Y, C, dtype=torch.float64), torch.randn(1, C, X, Y, dtype=torch.float64)
    position = torch.randn(X * Y, C, dtype=torch.float64)
    beside = torch.randn_like(query) if other else None
    found = module(query, previous, torch.tensor([[valid]]), position, beside)[0].detach().numpy()
    current = query[0].t().reshape(C, X, Y).numpy()
    earlier = previous[0].numpy() if valid else current
    read = current if beside is None or not valid else beside[0].t().reshape(C, X, Y).numpy()
    maps = [affine(module.value, earlier), affine(module.value, read)]
    for ix, iy in np.ndindex(X, Y):
        inputs = np.concatenate([earlier[:, ix, iy], current[:, ix, iy] + position[ix * Y + iy].numpy()])
        offsets, logits = head_weights(module, inputs)
        offsets, weights = offsets.reshape(HEADS, 2, points, 2), softmax(logits.reshape(HEADS, 2, points))
        total = np.zeros(C)
        for m, i, k in np.ndindex(HEADS, 2, points):
            channels = slice(m * C // HEADS, (m + 1) * C // HEADS)
            along_y, along_x = offsets[m, i, k]
            sample = bilinear(maps[i][channels], (iy + 0.5 + along_y) / Y, (ix + 0.5 + along_x) / X)
            total[channels] += weights[m, i, k] * sample / 2
        np.testing.assert_allclose(found[ix * Y + iy], affine(module.output, total), atol=1e-6)


def test_fresh_offsets_look_in_as_many_directions_as_there_are_heads() -> None:
    module = SpatialCrossAttention(16, heads=8, points=8)
    offsets, logits = module.where(torch.randn(1, 5, 16))
    assert (logits == 0).all(), "equal weights before training"
    first = offsets[0, 0, :, 0, 0]
    torch.testing.assert_close(first[0], torch.tensor([1.0, 0.0]))
    assert len({tuple(round(v, 3) for v in row) for row in first.tolist()}) == 8
    torch.testing.assert_close(offsets[0, 0, :, 0, 3], 4 * first)


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="divisible by heads, found 6 channels and 4 heads"):
        TemporalSelfAttention(GRID, 6, 4)
    with pytest.raises(ValueError, match="multiples of 4 heights, found 6"):
        SpatialCrossAttention(8, 2, 1, heights=4, points=6)
    module = SpatialCrossAttention(C, HEADS, 1, heights=4, points=4).double()
    with pytest.raises(ValueError, match="4 heights per cell, found 1 and 3"):
        module(torch.zeros(1, X * Y, C, dtype=torch.float64), [torch.zeros(1, 3, C, H, W)], PROJECTED)
