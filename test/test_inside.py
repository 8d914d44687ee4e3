"""Points in boxes, found by cells and circles, against every point in every box."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit")

from bev_perception.geometry import points_in_box
from training.data.inside import rows_inside


def every_point(points: np.ndarray, boxes: np.ndarray, margin: float = 0.0) -> list[np.ndarray]:
    return [np.flatnonzero(points_in_box(points, box, margin)) for box in boxes]


def cloud(rng: np.random.Generator, count: int, reach: float) -> np.ndarray:
    return rng.uniform([-reach, -reach, -2, 0, 0], [reach, reach, 3, 1, 0.5], (count, 5)).astype(np.float32)


def some_boxes(rng: np.random.Generator, count: int, reach: float) -> np.ndarray:
    place = rng.uniform([-reach, -reach, -1], [reach, reach, 1], (count, 3))
    return np.column_stack([place, rng.uniform(0.2, 12, (count, 3)), rng.uniform(-7, 7, count)])


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize(("reach", "of_boxes"), [(60, 50), (60, 90), (20, 3), (60, 0.1)])
def test_the_same_points_as_by_trying_all(reach: float, of_boxes: float, margin: float) -> None:
    rng = np.random.default_rng(3)
    points, boxes = cloud(rng, 4000, reach), some_boxes(rng, 40, of_boxes)
    found, expected = rows_inside(points, boxes, margin), every_point(points, boxes, margin)
    assert len(found) == 40 and sum(map(len, expected)) > 40
    for rows, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(rows, wanted)


def test_points_on_the_border_and_boxes_far_away() -> None:
    boxes = np.array([[10.0, -5, 0, 4, 2, 2, 0], [0, 0, 0, 1, 1, 1, 0], [3e5, -2e6, 0, 1, 1, 1, 0]])
    points = np.array([[12, -4, 1], [8, -6, -1], [12.001, -4, 0], [0.5, 0.5, 0], [3e5, -2e6, 0]], dtype=np.float32)
    assert [rows.tolist() for rows in rows_inside(points, boxes)] == [[0, 1], [3], [4]]


def test_nothing_is_in_nothing() -> None:
    box = np.array([[0.0, 0, 0, 1, 1, 1, 0]])
    assert rows_inside(np.zeros((5, 5), np.float32), np.zeros((0, 7))) == []
    assert [rows.tolist() for rows in rows_inside(np.zeros((0, 5), np.float32), box)] == [[]]
