"""What a perfect map gives back: a crowd that a filter of local maxima would merge."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bev_perception.decode import Decoded, decode  # noqa: E402
from bev_perception.grid import BevGrid  # noqa: E402
from bev_perception.model_spec import BOX_CHANNELS, CLASSES, ModelSpec  # noqa: E402
from training.data.targets import draw_gaussian  # noqa: E402
from training.models.center_head import find_candidates  # noqa: E402
from training.recipes.specs import PAPER_NMS_RADIUS  # noqa: E402

GRID = BevGrid(-25.6, 25.6, -25.6, 25.6, 0.8)
SPEC = ModelSpec("crowd", ("c",), (), dict.fromkeys(CLASSES, 0.1), PAPER_NMS_RADIUS, grid=GRID, top_k=500)
PEDESTRIAN = CLASSES.index("pedestrian")


def crowd(seed: int, count: int = 60, least_m: float = 0.7) -> np.ndarray:
    """(count, 2) people in groups on a square of 30 m, none nearer to another than `least_m`."""
    rng = np.random.default_rng(seed)
    people: list[np.ndarray] = []
    while len(people) < count:
        near = people[rng.integers(len(people))] if people and rng.uniform() < 0.6 else rng.uniform(-15, 15, 2)
        place = near + rng.uniform(-1.5, 1.5, 2)
        if all(np.hypot(*(place - other)) >= least_m for other in people):
            people.append(place)
    return np.array(people)


def perfect_maps(people: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """scores (classes, X, Y), each person's Gaussian times some confidence, as networks have it; boxes (10, X, Y), in
    each cell those of the nearest."""
    scores = np.zeros((len(CLASSES), *GRID.shape), np.float32)
    cells, _ = GRID.cells(people)
    for cell, confidence in zip(cells, rng.uniform(0.4, 1.0, len(people)), strict=True):
        one = np.zeros(GRID.shape, np.float32)
        draw_gaussian(one, (int(cell[0]), int(cell[1])), 2)
        scores[PEDESTRIAN] = np.maximum(scores[PEDESTRIAN], confidence * one)
    centers = GRID.centers()
    nearest = people[np.linalg.norm(centers[:, :, None] - people, axis=-1).argmin(axis=-1)]
    boxes = np.zeros((len(BOX_CHANNELS), *GRID.shape), np.float32)
    boxes[:2] = np.moveaxis((nearest - centers) / GRID.step + 0.5, -1, 0)
    boxes[3:6], boxes[7] = np.log(0.7), 1.0
    return scores, boxes


def decoded(scores: np.ndarray, boxes: np.ndarray) -> Decoded:
    found = find_candidates(torch.from_numpy(scores[None]), torch.from_numpy(boxes[None, None]), (0,) * 10, SPEC.top_k)
    return decode({n: t[0].numpy() for n, t in zip(("scores", "labels", "cells", "boxes"), found, strict=True)}, SPEC)


def share_found(people: np.ndarray, found: Decoded) -> float:
    distance = np.linalg.norm(people[:, None] - found.boxes[None, :, :2], axis=-1)
    return float((distance.min(axis=1) < 0.05).mean())


def test_people_side_by_side_are_all_found() -> None:
    shares, merged = [], []
    for seed in range(10):
        people = crowd(seed)
        scores, boxes = perfect_maps(people, np.random.default_rng(seed))
        found = decoded(scores, boxes)
        shares.append(share_found(people, found))
        assert len(found.scores) == len({tuple(box) for box in found.boxes[:, :2].round(2).tolist()}), "one box each"
        highest = torch.nn.functional.max_pool2d(torch.from_numpy(scores[None]), 3, 1, 1)[0].numpy()
        merged.append(share_found(people, decoded(scores * (scores == highest), boxes)))
    assert np.mean(shares) > 0.9
    assert np.mean(merged) < 0.75, "the crowd is one that local maxima do not tell apart"
