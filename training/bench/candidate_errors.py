"""How far two sets of a network's outputs lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from bev_perception.grid import BevGrid

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Error:
    """largest and median |found - reference| of what both have; NaN where they have nothing in common."""

    largest: float
    median: float

    def __str__(self) -> str:
        return f"{self.largest:.1e}, {self.median:.0e}"


def errors(found: Arrays, reference: Arrays, grid: BevGrid) -> tuple[dict[str, Error], int]:
    """By name, of candidates that both found (same class and cell), and how many of the reference's are lost.

    scores: absolute; boxes: over max(1, |reference|); bev: over the largest value of the reference's, if there is one.
    """
    cells = grid.shape[0] * grid.shape[1]
    keys, found_keys = (outputs["labels"] * cells + outputs["cells"] for outputs in (reference, found))
    _, ours, theirs = np.intersect1d(keys, found_keys, return_indices=True)
    score = np.abs(found["scores"][theirs] - reference["scores"][ours])
    box = np.abs(found["boxes"][theirs] - reference["boxes"][ours]) / np.maximum(1, np.abs(reference["boxes"][ours]))
    differences = {"scores": score, "boxes": box}
    if "bev" in reference:
        differences["bev"] = np.abs(found["bev"] - reference["bev"]) / np.abs(reference["bev"]).max()
    return {name: _error(difference) for name, difference in differences.items()}, len(keys) - len(ours)


def _error(differences: np.ndarray) -> Error:
    if not differences.size:
        return Error(float("nan"), float("nan"))
    return Error(float(differences.max()), float(np.median(differences)))
