"""Regions of distillation against hand-drawn scenes and loops."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch", reason="needs torch")

import numpy as np
import torch
from torch import Tensor

from bev_perception.grid import BevGrid
from training.distill.attention import channel_attention, joint_attention, spatial_attention
from training.distill.masks import (
    box_scale,
    component_share,
    depth_known,
    per_cell_share,
    point_cells,
    points_in_boxes,
    resize_map,
    teacher_false_positives,
    view_cells,
)
from training.models.footprints import box_index, footprints
from training.models.view.depth_bins import DepthBins

GRID = BevGrid(-4.0, 4.0, -3.0, 3.0, 1.0)  # 8 x 6 cells
SHAPE = GRID.shape


def scene(*boxes: tuple[float, float, float, float, float]) -> tuple[Tensor, Tensor]:
    """(x, y, length, width, yaw) of one sample -> boxes (1, M, 7), valid (1, M)."""
    rows = [(x, y, 0.5, length, width, 1.5, yaw) for x, y, length, width, yaw in boxes]
    return torch.tensor([rows]).reshape(1, -1, 7), torch.ones(1, len(rows))


def drawn(mask: Tensor) -> list[str]:
    """(X, Y) -> rows as seen from above: x up, y to the left."""
    return ["".join("#" if v else "." for v in row.flip(0)) for row in mask.flip(0)]


def test_footprint_along_x_as_drawn() -> None:
    mask = footprints(*scene((0.5, 1.5, 3.0, 1.0, 0.0)), GRID, SHAPE)
    assert drawn(mask[0]) == ["......", "......", ".#....", ".#....", ".#....", "......", "......", "......"]


def test_footprint_turned_left_lies_along_y() -> None:
    mask = footprints(*scene((0.5, 0.5, 3.0, 1.0, math.pi / 2)), GRID, SHAPE)
    assert drawn(mask[0]) == ["......", "......", "......", ".###..", "......", "......", "......", "......"]


def test_footprint_on_the_diagonal_follows_the_heading() -> None:
    mask = footprints(*scene((0.0, 0.0, 5.0, 0.8, math.pi / 4)), GRID, SHAPE)
    assert drawn(mask[0]) == ["......", "......", ".#....", "..#...", "...#..", "....#.", "......", "......"]


def test_the_corner_rule_shifts_a_mask_by_half_a_cell() -> None:
    boxes, valid = scene((1.0, 0.0, 1.8, 1.8, 0.0))  # contains the corners (1, 0) only, but the centres of four cells
    by_corner, by_center = (box_index(boxes, valid, GRID, SHAPE, point) for point in ("corner", "center"))
    assert int((by_corner >= 0).sum()) == 1 and int((by_center >= 0).sum()) == 4
    assert by_corner[0, 5, 3] == 0 and torch.equal(by_center >= 0, footprints(boxes, valid, GRID, SHAPE))
    with pytest.raises(ValueError, match="center"):
        box_index(boxes, valid, GRID, SHAPE, "middle")


def test_footprints_equal_a_loop_and_padding_changes_nothing() -> None:
    rng = np.random.default_rng(3)
    boxes = torch.from_numpy(rng.uniform((-5, -4, -1, 0.5, 0.5, 1, -4), (5, 4, 1, 5, 3, 2, 4), (2, 6, 7))).float()
    valid = torch.tensor([[1, 1, 0, 1, 1, 1], [1, 0, 1, 0, 0, 0]]).float()
    for shape in (SHAPE, (16, 12), (4, 3)):
        index = box_index(boxes, valid, GRID, shape, "center")
        step = 8.0 / shape[0]
        for b in range(2):
            for ix in range(shape[0]):
                for iy in range(shape[1]):
                    x, y = -4 + (ix + 0.5) * step, -3 + (iy + 0.5) * step
                    expected = -1
                    for m in range(6):
                        bx, by, _, length, width, _, yaw = boxes[b, m].tolist()
                        u = (x - bx) * math.cos(yaw) + (y - by) * math.sin(yaw)
                        v = (y - by) * math.cos(yaw) - (x - bx) * math.sin(yaw)
                        if valid[b, m] and abs(u) <= length / 2 and abs(v) <= width / 2:
                            expected = m
                            break
                    assert index[b, ix, iy] == expected
    padded = torch.cat([boxes, torch.full((2, 3, 7), 1.0)], dim=1)
    assert torch.equal(box_index(padded, torch.cat([valid, torch.zeros(2, 3)], dim=1), GRID, SHAPE), box_index(
        boxes, valid, GRID, SHAPE
    ))  # fmt: skip
    assert torch.equal(
        box_index(boxes.flip(0), valid.flip(0), GRID, SHAPE), box_index(boxes, valid, GRID, SHAPE).flip(0)
    )


def test_no_boxes_at_all() -> None:
    index = box_index(torch.zeros(2, 0, 7), torch.zeros(2, 0), GRID, SHAPE)
    assert (index == -1).all()
    assert (box_scale(index, torch.zeros(2, 0, 7), GRID) == 0).all()
    assert (box_index(torch.zeros(2, 3, 7), torch.zeros(2, 3), GRID, SHAPE) == -1).all()


@pytest.mark.parametrize(("length", "width", "expected"), [(4.6, 1.95, 0.267), (11.0, 2.9, 0.142), (0.73, 0.67, 1.144)])
def test_adaptive_scale_of_published_object_sizes(length: float, width: float, expected: float) -> None:
    """1 / sqrt(area in cells) at 0.8 m: car, bus, pedestrian."""
    grid = BevGrid(-51.2, 51.2, -51.2, 51.2, 0.8)
    boxes, valid = scene((0.4, 0.4, length, width, 0.3))
    scale = box_scale(box_index(boxes, valid, grid, grid.shape), boxes, grid)
    assert float(scale.max()) == pytest.approx(expected, abs=1e-3)
    inside = scale[scale > 0]
    assert torch.allclose(inside, inside[:1].expand_as(inside))


def test_where_boxes_overlap_the_first_one_gives_the_scale() -> None:
    boxes, valid = scene((0.5, 0.5, 1.0, 1.0, 0.0), (0.5, 0.5, 3.0, 3.0, 0.0))
    scale = box_scale(box_index(boxes, valid, GRID, SHAPE), boxes, GRID)[0]
    assert float(scale[4, 3]) == pytest.approx(1.0)
    assert float(scale[5, 3]) == pytest.approx(1 / 3)
    assert int((scale > 0).sum()) == 9


def test_false_positives_are_seen_by_the_teacher_and_not_labelled() -> None:
    logits = torch.full((1, 2, 8, 6), -8.0)
    target = torch.zeros(1, 2, 8, 6)
    logits[0, 0, 1, 1] = 3.0  # a false positive
    logits[0, 1, 5, 4] = 3.0  # found
    target[0, 0, 5, 4] = 0.4
    target[0, 0, 2, 2] = 1.0  # missed
    logits[0, 0, 6, 0] = math.log(0.09 / 0.91)  # below the threshold
    mask = teacher_false_positives(logits, target, SHAPE)
    assert mask.nonzero().tolist() == [[0, 1, 1]]
    coarse = teacher_false_positives(logits, target, (4, 3))
    assert coarse.nonzero().tolist() == [[0, 0, 0]]
    fine = teacher_false_positives(logits, target, (16, 12))
    assert fine.nonzero().tolist() == [[0, 2, 2], [0, 2, 3], [0, 3, 2], [0, 3, 3]]


def test_resize_keeps_any_cell_whatever_the_sizes() -> None:
    mask = torch.zeros(1, 4, 6, dtype=torch.bool)
    mask[0, 3, 2] = True
    assert drawn(resize_map(mask, (2, 3))[0]) == [".#.", "..."]
    assert torch.equal(resize_map(resize_map(mask, (8, 12)), (4, 6)), mask)
    values = torch.arange(24.0).reshape(1, 4, 6)
    assert resize_map(values, (2, 2)).tolist() == [[[8.0, 11.0], [20.0, 23.0]]]
    # Three rows of 4/3 cells each: rows 0 to 1, 1 to 2 and 2 to 3 of four; a student of 128 cells, a teacher of 200.
    assert resize_map(mask, (3, 6)).nonzero().tolist() == [[0, 2, 2]]
    assert resize_map(values, (3, 6))[0, :, 0].tolist() == [6.0, 12.0, 18.0]
    wide = torch.zeros(1, 200, 200, dtype=torch.bool)
    wide[0, 100, 199] = True
    assert resize_map(wide, (128, 128)).nonzero().tolist() == [[0, 64, 127]]


def test_shares_sum_to_one_per_sample_or_component() -> None:
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[0, 0, :3] = True  # three in a row
    mask[0, 1, 3] = True  # touches them by a corner only: another component
    share = per_cell_share(mask)
    assert share[0].sum() == pytest.approx(1) and share[0, 0, 0] == 0.25
    assert (share[1] == 0).all()
    alone = torch.zeros(1, 4, 5, dtype=torch.bool)
    alone[0, 2, 2] = True
    assert per_cell_share(alone).sum() == component_share(alone).sum() == 1
    components = component_share(mask)
    assert components[0, 0, :3].tolist() == pytest.approx([1 / 3] * 3) and components[0, 1, 3] == 1
    assert (components[1] == 0).all()


def test_points_in_boxes_and_their_cells() -> None:
    boxes, valid = scene((0.5, 0.5, 2.0, 1.0, 0.0))
    boxes, valid = boxes.repeat(2, 1, 1), torch.tensor([[1.0], [0.0]])
    points = torch.tensor(
        [
            [0, 1.4, 0.9, 0.5, 0.1, 0.0],  # inside
            [0, 1.6, 0.9, 0.5, 0.1, 0.0],  # beyond its front
            [0, 0.5, 0.5, 2.0, 0.1, 0.0],  # above it
            [1, 1.4, 0.9, 0.5, 0.1, 0.0],  # inside, but the box of this sample is padding
            [0, -4.2, 0.0, 0.5, 0.1, 0.0],  # below the range: no cell, not cell 0
        ]
    )
    assert points_in_boxes(points, boxes, valid, GRID).tolist() == [True, False, False, False, False]
    assert point_cells(points, GRID, SHAPE, 2).nonzero().tolist() == [[0, 4, 3], [0, 5, 3], [1, 5, 3]]
    assert point_cells(points, GRID, (16, 3), 2).nonzero().tolist() == [[0, 9, 1], [0, 10, 1], [0, 11, 1], [1, 10, 1]]
    assert not point_cells(points[:0], GRID, SHAPE, 2).any()
    assert points_in_boxes(points[:0], boxes, valid, GRID).shape == (0,)


def test_points_in_boxes_are_those_of_a_plain_loop() -> None:
    generator = torch.Generator().manual_seed(3)
    low, size = (
        torch.tensor([-5.0, -4.0, -1.0, 0.2, 0.2, 0.5, -4.0]),
        torch.tensor([10.0, 8.0, 2.0, 6.0, 3.0, 2.0, 8.0]),
    )
    boxes = low + size * torch.rand(2, 9, 7, generator=generator)  # some reach beyond the range
    valid = (torch.rand(2, 9, generator=generator) < 0.6).float()
    points = torch.rand(6000, 4, generator=generator) * torch.tensor([2.0, 10.0, 8.0, 3.0]) - torch.tensor(
        [0, 5, 4, 1.5]
    )
    points[:, 0] = points[:, 0].floor()
    expected = []
    for sample, x, y, z in points.tolist():
        inside = False
        for m in torch.nonzero(valid[int(sample)]).flatten().tolist():
            bx, by, bz, length, width, height, yaw = boxes[int(sample), m].tolist()
            along = (x - bx) * math.cos(yaw) + (y - by) * math.sin(yaw)
            across = (y - by) * math.cos(yaw) - (x - bx) * math.sin(yaw)
            inside |= abs(along) <= length / 2 and abs(across) <= width / 2 and abs(z - bz) <= height / 2
        expected.append(inside and -4 <= x < 4 and -3 <= y < 3)
    found = points_in_boxes(points, boxes, valid, GRID).tolist()
    assert found == expected and 100 < sum(found) < 3000


def forward_camera(stride: int, h: int, w: int) -> Tensor:
    """A camera at the ego origin, 1 m up, looking along +x: u = W/2 - f y / x."""
    f, cx, cy = 10.0, w * stride / 2 - 0.5, h * stride / 2 - 0.5
    k = torch.tensor([[f, 0, cx, 0], [0, f, cy, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    cam = torch.tensor([[0, -1, 0, 0], [0, 0, -1, 1], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    return k @ cam


def test_view_mask_is_the_lit_part_of_the_frustum() -> None:
    bins, stride, h, w = DepthBins(0.5, 1.0, 3), 8, 3, 5
    depth = torch.zeros(1, 2, 3, h, w)
    depth[:, :, 1, 1, 2] = 0.9  # the middle pixel at 2 m
    depth[:, :, 2, 1, 0] = 0.9  # the leftmost one at 3 m: y = +3 * 16 / 10
    depth[:, :, 0, 1, 4] = 0.005  # too faint
    img_from_ego = torch.stack([forward_camera(stride, h, w)] * 2)[None]
    mask = view_cells(
        depth, img_from_ego, torch.tensor([[1.0, 0.0]]), bins, stride, BevGrid(-4, 4, -6, 6, 1.0), (8, 12), 0.01
    )
    assert not mask[0, 1].any()
    assert mask[0, 0].nonzero().tolist() in ([[6, 6], [7, 10]], [[6, 5], [7, 10]])  # y = 0 is a cell's edge


def test_depth_known_is_any_return_in_the_patch() -> None:
    depth = torch.zeros(1, 2, 4, 4)
    depth[0, 1, 3, 0] = 12.0
    assert depth_known(depth, (2, 2)).nonzero().tolist() == [[0, 1, 1, 0]]


def test_attention_sums_and_is_one_for_constant_features() -> None:
    torch.manual_seed(0)
    feature = torch.randn(2, 5, 8, 6)
    attention = spatial_attention(feature)
    assert attention.flatten(1).sum(dim=1).tolist() == pytest.approx([48.0, 48.0])
    # One cell by hand.
    weights = [math.exp(float(feature[1, :, x, y].abs().mean()) / 0.5) for x in range(8) for y in range(6)]
    assert float(attention[1, 2, 3]) == pytest.approx(48 * weights[2 * 6 + 3] / sum(weights), rel=1e-5)
    assert torch.allclose(spatial_attention(torch.full((1, 3, 4, 4), -7.0)), torch.ones(1, 4, 4))
    channels = channel_attention(feature)
    assert channels.shape == (2, 5, 1, 1)
    assert channels.sum(dim=1).flatten().tolist() == pytest.approx([5.0, 5.0])
    assert torch.isfinite(spatial_attention(1e4 * feature.half())).all()


def test_joint_attention_modes() -> None:
    torch.manual_seed(1)
    t, s = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4, requires_grad=True)
    assert torch.equal(joint_attention(t, s, "teacher", 0.5, 1.0), spatial_attention(t))
    both = joint_attention(t, s, "teacher_student", 0.5, 1.0)
    assert not both.requires_grad
    assert torch.allclose(both, (spatial_attention(t) + spatial_attention(s)) / 2)
    assert torch.allclose(joint_attention(t, s, "teacher_student", 0.5, 0.0), spatial_attention(t))
    with pytest.raises(ValueError, match="teacher_student"):
        joint_attention(t, s, "student", 0.5, 1.0)
