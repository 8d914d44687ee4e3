"""The BEV grid: the one place where metres become cells and cells become metres."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CELL_LIMIT = 10_000  # along an axis; pillars of 7.5 cm over 108 m are 1,440


@dataclass(frozen=True)
class BevGrid:
    """A regular grid in the ego frame; maps over it have shape (C, X, Y), X along ego x, Y along ego y.

    Metres. Cell (ix, iy) covers [x_min + ix * step, x_min + (ix + 1) * step) and the same in y.
    """

    x_min: float = -51.2
    x_max: float = 51.2
    y_min: float = -51.2
    y_max: float = 51.2
    step: float = 0.8

    def __post_init__(self) -> None:
        finite = all(math.isfinite(v) for v in (self.x_min, self.x_max, self.y_min, self.y_max, self.step))
        if not finite or self.step <= 0 or self.x_max <= self.x_min or self.y_max <= self.y_min:
            raise ValueError(f"BevGrid wants finite numbers, step > 0 and max > min, found {self}")
        for low, high, axis in ((self.x_min, self.x_max, "x"), (self.y_min, self.y_max, "y")):
            cells = (high - low) / self.step
            if cells > CELL_LIMIT:
                raise ValueError(f"BevGrid: {cells:.4g} cells along {axis}, at most {CELL_LIMIT}")
            if abs(cells - round(cells)) > 1e-6:
                raise ValueError(
                    f"BevGrid: {axis} range {low}..{high} m is not a whole number of {self.step} m cells ({cells})"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """(X, Y) cells; rounded, because int(100.8 / 0.4) would lose a cell."""
        return round((self.x_max - self.x_min) / self.step), round((self.y_max - self.y_min) / self.step)

    def fractional_cells(self, xy: np.ndarray) -> np.ndarray:
        """(..., 2) metres -> (..., 2) continuous cell coordinates; a cell's centre lies at index + 0.5."""
        return (np.asarray(xy) - np.array([self.x_min, self.y_min])) / self.step

    def cells(self, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(..., 2) metres -> (..., 2) int64 cell indices and (...) bool, true inside the grid.

        floor, not truncation: truncation would pull points just below the range into cell 0. NaN is outside.
        """
        fractional = self.fractional_cells(xy)
        size = np.array(self.shape)
        inside = np.all((fractional >= 0) & (fractional < size), axis=-1)
        cells = np.zeros(fractional.shape, dtype=np.int64)
        cells[inside] = np.floor(fractional[inside]).astype(np.int64)
        return cells, inside

    def centers(self) -> np.ndarray:
        """(X, Y, 2) float64, the cell centres in metres."""
        x, y = self.shape
        xs = self.x_min + (np.arange(x) + 0.5) * self.step
        ys = self.y_min + (np.arange(y) + 0.5) * self.step
        return np.stack(np.meshgrid(xs, ys, indexing="ij"), axis=-1)
