"""The grid against a slow reference; below the range, on its edges, and where floats mislead."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bev_perception.grid import BevGrid

GRIDS = [
    BevGrid(),
    BevGrid(-50.4, 50.4, -50.4, 50.4, 0.4),
    BevGrid(0.0, 7.0, -3.0, 3.0, 1.0),
    BevGrid(-10.0, 30.0, -20.0, 20.0, 2.5),
]


def test_shape_does_not_lose_a_cell():
    assert BevGrid(-50.4, 50.4, -50.4, 50.4, 0.4).shape == (252, 252)
    assert BevGrid().shape == (128, 128)
    assert BevGrid(0.0, 7.0, -3.0, 3.0, 1.0).shape == (7, 6)


@pytest.mark.parametrize("grid", GRIDS)
def test_cells_equal_floor_point_by_point(grid):
    rng = np.random.default_rng(0)
    points = rng.uniform([grid.x_min - 3, grid.y_min - 3], [grid.x_max + 3, grid.y_max + 3], (500, 2))
    cells, inside = grid.cells(points)
    assert 50 < inside.sum() < 500
    for point, cell, is_inside in zip(points, cells, inside):
        ix, iy = math.floor((point[0] - grid.x_min) / grid.step), math.floor((point[1] - grid.y_min) / grid.step)
        expected = 0 <= ix < grid.shape[0] and 0 <= iy < grid.shape[1]
        assert is_inside == expected
        if expected:
            assert tuple(cell) == (ix, iy)


def test_points_just_below_the_range_are_outside_not_in_cell_zero():
    grid = BevGrid()
    _, inside = grid.cells(
        np.array([[-51.3, 0.0], [0.0, -51.21], [-51.2, -51.2], [51.2, 0.0], [np.nan, 0.0], [np.inf, 0.0]])
    )
    assert inside.tolist() == [False, False, True, False, False, False]


@pytest.mark.parametrize("grid", GRIDS)
def test_centers_fall_into_their_cells(grid):
    centers = grid.centers()
    assert centers.shape == (*grid.shape, 2)
    cells, inside = grid.cells(centers)
    assert inside.all()
    ix, iy = np.meshgrid(*map(np.arange, grid.shape), indexing="ij")
    np.testing.assert_array_equal(cells, np.stack([ix, iy], axis=-1))
    np.testing.assert_allclose(grid.fractional_cells(centers), cells + 0.5)


@pytest.mark.parametrize(
    "bounds", [(0, 10, 0, 10, 0), (0, 10, 0, 10, -1), (10, 0, 0, 10, 1), (0, 10, 5, 5, 1), (0, 10, 0, 10, 3)]
)
def test_impossible_grids_are_refused(bounds):
    with pytest.raises(ValueError, match="BevGrid"):
        BevGrid(*bounds)
