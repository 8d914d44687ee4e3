"""Training targets against closed forms, and against the runtime's decode: one box, one cell."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs torch")

import cv2
import numpy as np

from bev_perception.decode import boxes_from_cells
from bev_perception.geometry import box_corners, project, transform_boxes
from bev_perception.grid import BevGrid
from training.data.targets import (
    MAX_OBJECTS,
    bev_targets,
    depth_target,
    draw_gaussian,
    gaussian_radius,
    semantic_target,
)
from training.experiments.demo import demo_spec

SPEC = demo_spec()


@pytest.mark.parametrize(
    ("size_m", "cell", "radius"),
    [  # published unit values at overlap 0.1: width, length of typical boxes in metres
        ((1.96, 4.63), 0.8, 1.57), ((2.51, 6.93), 0.8, 2.15), ((2.94, 10.5), 0.8, 2.84), ((2.90, 12.29), 0.8, 2.94),
        ((0.67, 0.73), 0.8, 0.38), ((1.96, 4.63), 0.6, 2.10), ((2.94, 10.5), 0.6, 3.79), ((2.90, 12.29), 0.6, 3.92),
    ],
)  # fmt: skip
def test_radius_is_the_published_one(size_m: tuple[float, float], cell: float, radius: float) -> None:
    assert gaussian_radius(size_m[0] / cell, size_m[1] / cell) == pytest.approx(
        radius, abs=0.05
    )  # mean sizes are rounded


@pytest.mark.parametrize("overlap", [0.05, 0.1, 0.5, 0.9])
def test_radius_is_the_least_of_cornernets_three(overlap: float) -> None:
    """As CornerNet writes them: a corner moves in and one out, both in, both out; each root divided by 2."""
    for h, w in np.random.default_rng(0).uniform(0.2, 30, (50, 2)):
        coefficients = (
            (1, -(h + w), w * h * (1 - overlap) / (1 + overlap)),
            (4, -2 * (h + w), (1 - overlap) * w * h),
            (4 * overlap, 2 * overlap * (h + w), (overlap - 1) * w * h),
        )
        three = [(-b + np.sqrt(b * b - 4 * a * c)) / 2 for a, b, c in coefficients]
        assert gaussian_radius(h, w, overlap) == pytest.approx(min(three))


def test_gaussian_and_regression_values() -> None:
    """A car of the mean size in the middle of 0.8 m cells: radius 2, sigma 5 / 6; offsets, logarithms, sine, cosine."""
    box = np.array([[0.4 + 0.1, 0.4 - 0.2, 1.0, 4.63, 1.96, 1.74, np.pi / 6]])
    target = bev_targets(box, np.array([[3.0, -1.0]]), np.array([0]), BevGrid(), 10)
    around = target["heatmap"][0, 64:68, 64:68]
    expected = {(0, 0): 1.0, (1, 0): 0.48675, (1, 1): 0.23693, (2, 0): 0.05613, (2, 1): 0.02732, (2, 2): 0.00315}
    for (i, j), value in expected.items():
        assert around[i, j] == pytest.approx(value, abs=1e-5) and around[j, i] == pytest.approx(value, abs=1e-5)
    assert around[3].max() == 0 and target["heatmap"].sum() == pytest.approx(
        sum(np.exp(-0.72 * (i * i + j * j)) for i in range(-2, 3) for j in range(-2, 3)), rel=1e-5
    )
    assert target["cells"][0] == 64 * 128 + 64 and target["labels"][0] == 0
    channels = [0.625, 0.25, 1.0, np.log(4.63), np.log(1.96), np.log(1.74), 0.5, np.sqrt(0.75), 3.0, -1.0]
    np.testing.assert_allclose(target["boxes"][0], channels, atol=1e-5)
    np.testing.assert_allclose(target["gt_boxes"][0], box[0], rtol=1e-6)
    assert target["gt_valid"].sum() == 1 and target["mask"][0].all()


def test_labels_and_boxes_belong_to_their_rows() -> None:
    boxes = np.array([[90.0, 0, 0, 4, 2, 1, 0], [5, 5, 0, 4, 2, 1, 0], [-5, 5, 0, 9, 2, 1, 0]])
    target = bev_targets(boxes, np.zeros((3, 2)), np.array([0, 7, 3]), BevGrid(), 10)
    assert target["labels"][:3].tolist() == [7, 3, 0] and target["gt_valid"][:3].tolist() == [1, 1, 0]
    np.testing.assert_allclose(target["gt_boxes"][:2], boxes[1:])


def test_gaussian_is_cut_at_the_edge_and_merged_by_maximum() -> None:
    heatmap = np.zeros((8, 8), dtype=np.float32)
    draw_gaussian(heatmap, (0, 0), 2)
    draw_gaussian(heatmap, (1, 0), 2)
    sigma = 5 / 6
    for i in range(8):
        for j in range(8):
            expected = max(
                np.exp(-((i - c) ** 2 + j**2) / (2 * sigma**2)) if abs(i - c) <= 2 and j <= 2 else 0.0 for c in (0, 1)
            )
            assert heatmap[i, j] == pytest.approx(expected, abs=1e-6)


def test_a_box_lights_the_cell_that_the_runtime_decodes() -> None:
    rng = np.random.default_rng(0)
    boxes = np.column_stack(
        [
            rng.uniform(-51, 51, (60, 2)),
            rng.uniform(-1, 2, 60),
            rng.uniform(0.4, 12, (60, 3)),
            rng.uniform(-3.1, 3.1, 60),
        ]
    )
    velocity, labels = rng.normal(size=(60, 2)) * 5, rng.integers(0, 10, 60)
    target = bev_targets(boxes, velocity, labels, SPEC.grid, 10)
    found, found_velocity = boxes_from_cells(target["cells"][:60], target["boxes"][:60], SPEC)
    np.testing.assert_allclose(found, boxes, atol=1e-5)
    np.testing.assert_allclose(found_velocity, velocity, atol=1e-5)
    ix, iy = np.divmod(target["cells"][:60], SPEC.grid.shape[1])
    assert (target["heatmap"][labels, ix, iy] == 1).all()
    assert target["mask"][:60].min() == 1 and target["mask"][60:].max() == 0


def test_outside_and_unknown_velocity() -> None:
    boxes = np.array([[60.0, 0, 0, 4, 2, 1.5, 0], [-51.25, 0, 0, 4, 2, 1.5, 0], [0, 0, 0, 4, 2, 1.5, 0]])
    velocity = np.array([[0.0, 0], [0, 0], [np.nan, np.nan]])
    target = bev_targets(boxes, velocity, np.array([0, 0, 3]), BevGrid(), 10)
    assert target["heatmap"][0].max() == 0, "a box 5 cm below the range must not light cell 0"
    assert target["mask"].sum() == 8 and np.isfinite(target["boxes"]).all()
    assert target["mask"][0, :8].all() and not target["boxes"][0, 8:].any()
    half = bev_targets(boxes[2:], np.array([[1.0, np.nan]]), np.array([3]), BevGrid(), 10)
    assert half["mask"][0].tolist() == [1] * 8 + [0, 0] and not half["boxes"][0, 8:].any()


def test_depth_target_is_the_nearest_point_of_each_patch() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform([2, -10, -2], [40, 10, 2], (3000, 3))
    K = np.array([[100.0, 0, 64, 0], [0, 100, 32, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    cam_from_ego = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    target = depth_target(points, K @ cam_from_ego, (64, 128), 8)
    expected = np.zeros((8, 16), dtype=np.float32)
    pixels, depth = project(K @ cam_from_ego, points)
    for (u, v), d in zip(pixels, depth, strict=True):
        i, j = int((v + 0.5) // 8), int((u + 0.5) // 8)
        if 0 <= i < 8 and 0 <= j < 16 and (expected[i, j] == 0 or d < expected[i, j]):
            expected[i, j] = d
    np.testing.assert_allclose(target, expected, rtol=1e-6)


def test_semantic_target_puts_the_nearer_box_on_top() -> None:
    K = np.array([[100.0, 0, 64, 0], [0, 100, 32, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    img_from_ego = K @ np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    boxes = np.array([[10.0, 0, 0, 1, 2, 2, 0.3], [20, 0, 0, 1, 8, 8, 0], [-10, 0, 0, 2, 2, 2, 0]])
    target = semantic_target(boxes, np.array([8, 3, 0]), img_from_ego, (64, 128), 8)
    assert target[4, 8] == 9 and target[5, 10] == 4 and target[0, 0] == 0
    assert not (target == 1).any(), "a box behind the camera is not seen"
    assert semantic_target(np.zeros((0, 7)), np.zeros(0, dtype=int), img_from_ego, (64, 128), 8).sum() == 0


def test_semantic_target_equals_a_loop() -> None:
    """A patch of 4 x 4 pixels whose centre lies well inside or outside every outline; some reach beyond the image."""
    rng = np.random.default_rng(4)
    K = np.array([[100.0, 0, 63.5, 0], [0, 100, 31.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    img_from_ego = K @ np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    seen = 0
    for _ in range(20):
        low, high = [6, -8, -3, 1, 1, 1, -3], [25, 8, 3, 5, 5, 4, 3]
        boxes, labels = rng.uniform(low, high, (4, 7)), rng.integers(0, 10, 4)
        target = semantic_target(boxes, labels, img_from_ego, (64, 128), 4)
        assert target.shape == (16, 32) and target.dtype == np.int64
        pixels, depth = project(img_from_ego, box_corners(boxes).reshape(-1, 3))
        assert depth.min() > 0.5 and np.abs(pixels).max() < 4 * 128  # beyond that outlines are cut
        hulls = [cv2.convexHull(corners.astype(np.float32)) for corners in pixels.reshape(4, 8, 2)]
        order = np.argsort(depth.reshape(4, 8).mean(axis=1))
        for i, j in np.ndindex(16, 32):
            inside = [cv2.pointPolygonTest(hull, (4 * j + 1.5, 4 * i + 1.5), True) for hull in hulls]
            if min(map(abs, inside)) > 6:
                expected = next((1 + labels[k] for k in order if inside[k] > 0), 0)
                assert target[i, j] == expected
                seen += int(expected > 0)
    assert seen > 500


def test_a_box_that_begins_before_the_camera_is_not_drawn() -> None:
    """Nearer than half a metre the projection says nothing."""
    K = np.array([[100.0, 0, 64, 0], [0, 100, 32, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    img_from_ego = K @ np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    for front, drawn in ((0.5, False), (0.51, True)):
        box = np.array([[front + 1.0, 0, 0, 2, 1, 1, 0]])
        assert semantic_target(box, np.array([0]), img_from_ego, (64, 128), 8).any() == drawn
        points = np.array([[front, 0.0, 0.0]])
        assert depth_target(points, img_from_ego, (64, 128), 8).any() == drawn


def test_no_more_objects_than_there_is_room_for() -> None:
    boxes = np.tile([0.4, 0.4, 0, 4, 2, 1.5, 0], (MAX_OBJECTS + 1, 1))
    boxes[-1, 0] = 30.0
    target = bev_targets(boxes, np.zeros((len(boxes), 2)), np.zeros(len(boxes), dtype=int), BevGrid(), 10)
    assert target["gt_valid"].sum() == MAX_OBJECTS == 500
    assert (target["heatmap"] == 1).sum() == 1, "the last one is left out"


def test_boxes_turn_with_a_mirrored_frame() -> None:
    mirror = np.diag([1.0, -1, 1, 1])
    box = np.array([[5.0, 3, 1, 4, 2, 1.5, 0.4]])
    corners = box_corners(box)[0] @ mirror[:3, :3].T
    mirrored = box_corners(transform_boxes(mirror, box))[0]
    assert {tuple(c) for c in corners.round(6)} == {tuple(c) for c in mirrored.round(6)}
