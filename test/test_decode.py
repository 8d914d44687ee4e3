"""Decoding against loops: thresholds, box coding, circle NMS, broken values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from references import candidates_by_loops

from bev_perception.decode import Thresholds, boxes_from_cells, decode, thresholds_of
from bev_perception.grid import BevGrid
from bev_perception.model_spec import BOX_CHANNELS, CLASSES, ModelSpec

SPEC = ModelSpec(
    "m", ("c",), ("r",), dict.fromkeys(CLASSES, 0.1), {c: 0.5 + 0.3 * i for i, c in enumerate(CLASSES)}, top_k=200
)


def random_outputs(seed, spec=SPEC):
    rng = np.random.default_rng(seed)
    y = spec.grid.shape[1]
    boxes = rng.normal(0, 0.7, (spec.top_k, len(BOX_CHANNELS))).astype(np.float32)
    boxes[:, :2] = rng.uniform(0, 1, (spec.top_k, 2))
    cells = rng.integers(50, 80, spec.top_k) * y + rng.integers(50, 80, spec.top_k)  # crowded: NMS has work
    scores = np.sort(rng.uniform(0, 1, spec.top_k)).astype(np.float32)[::-1].copy()
    return {"scores": scores, "labels": rng.integers(0, 10, spec.top_k), "cells": cells, "boxes": boxes}


def decode_by_loops(outputs, spec, thresholds):
    rows = []
    for k in range(len(outputs["scores"])):
        c = dict(zip(BOX_CHANNELS, map(float, outputs["boxes"][k])))
        ix, iy = int(outputs["cells"][k]) // spec.grid.shape[1], int(outputs["cells"][k]) % spec.grid.shape[1]
        x = spec.grid.x_min + (ix + c["dx"]) * spec.grid.step
        y = spec.grid.y_min + (iy + c["dy"]) * spec.grid.step
        name, score = spec.classes[outputs["labels"][k]], float(outputs["scores"][k])
        least = thresholds.score[name]
        for up_to, value in thresholds.score_by_range.get(name, ()):
            if (x * x + y * y) ** 0.5 <= up_to:
                least = value
                break
        if score >= least:
            dims = [float(np.exp(c[d])) for d in ("log_l", "log_w", "log_h")]
            rows.append(
                (score, name, [x, y, c["z"], *dims, float(np.arctan2(c["sin_yaw"], c["cos_yaw"]))], [c["vx"], c["vy"]])
            )
    rows.sort(key=lambda r: -r[0])
    kept = []
    for row in rows:
        radius = thresholds.nms_radius[row[1]]
        if all(k[1] != row[1] or np.hypot(k[2][0] - row[2][0], k[2][1] - row[2][1]) >= radius for k in kept):
            kept.append(row)
    return kept


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("by_range", [{}, {"car": ((10.0, 0.9), (20.0, 0.2)), "bus": ((200.0, 0.99),)}])
def test_decode_equals_loops(seed, by_range):
    outputs = random_outputs(seed)
    thresholds = Thresholds({c: 0.05 * i for i, c in enumerate(CLASSES)}, SPEC.nms_radius, by_range)
    expected, found = decode_by_loops(outputs, SPEC, thresholds), decode(outputs, SPEC, thresholds)
    assert 20 < len(expected) < 190
    assert [CLASSES[i] for i in found.labels] == [row[1] for row in expected]
    np.testing.assert_allclose(found.scores, [row[0] for row in expected], rtol=1e-6)
    np.testing.assert_allclose(found.boxes, [row[2] for row in expected], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.velocity, [row[3] for row in expected], rtol=1e-6)
    assert (found.boxes.dtype, found.velocity.dtype, found.scores.dtype) == (np.float32,) * 3
    assert found.labels.dtype == np.int64 and found.not_finite == 0


def test_a_box_coded_by_hand_comes_back():
    """Centre (12.3, -7.9) in the default grid: cell and offset by hand, everything else by its definition."""
    grid = SPEC.grid
    ix, iy = int((12.3 + 51.2) // 0.8), int((-7.9 + 51.2) // 0.8)
    dx, dy = (12.3 + 51.2) / 0.8 - ix, (-7.9 + 51.2) / 0.8 - iy
    yaw = 2.5
    row = [dx, dy, 0.7, np.log(4.6), np.log(1.9), np.log(1.5), 2 * np.sin(yaw), 2 * np.cos(yaw), 8.0, -1.0]
    boxes, velocity = boxes_from_cells(np.array([ix * grid.shape[1] + iy]), np.array([row]), SPEC)
    np.testing.assert_allclose(boxes[0], [12.3, -7.9, 0.7, 4.6, 1.9, 1.5, 2.5], atol=1e-9)
    np.testing.assert_allclose(velocity[0], [8.0, -1.0])


def test_the_cell_index_uses_the_number_of_columns():
    spec = dataclasses.replace(SPEC, grid=BevGrid(0.0, 4.0, -4.0, 4.0, 1.0))  # (4, 8): X and Y differ
    boxes, _ = boxes_from_cells(np.array([2 * 8 + 5]), np.zeros((1, 10)), spec)
    np.testing.assert_allclose(boxes[0, :2], [2.0, 1.0])


def test_broken_values_are_dropped_and_counted():
    outputs = random_outputs(0)
    clean = decode(outputs, SPEC)
    outputs["scores"][0] = np.nan
    outputs["boxes"][1, 3] = 1e4  # exp overflows
    outputs["boxes"][2, 8] = np.inf
    outputs["boxes"][3, 3] = 89.0  # its exponential is finite in float64, infinite in the float32 that is published
    found = decode(outputs, SPEC)
    assert (found.not_finite, found.out_of_range) == (4, 0)
    assert np.isfinite(found.boxes).all() and np.isfinite(found.velocity).all() and np.isfinite(found.scores).all()
    assert 0 < len(found.scores) <= len(clean.scores) + 4
    everything_nan = {**outputs, "scores": np.full(200, np.nan, np.float32)}
    assert len(decode(everything_nan, SPEC).scores) == 0


CELLS = SPEC.grid.shape[0] * SPEC.grid.shape[1]


@pytest.mark.parametrize(
    ("name", "column", "beyond", "within"),
    [
        ("labels", None, 10, 9),
        ("labels", None, -1, 0),
        ("cells", None, CELLS, CELLS - 1),
        ("cells", None, -1, 0),
        ("boxes", 0, 1e6, 1.5),  # cells of 0.8 m
        ("boxes", 0, 71.0, 70.0),  # from cell 64: 5 m beyond the edge and no further
        ("boxes", 0, -71.0, -70.0),
        ("boxes", 1, 71.0, 70.0),
        ("boxes", 1, -71.0, -70.0),
        ("boxes", 2, 30.5, 29.5),
        ("boxes", 2, -30.5, -29.5),
        ("boxes", 3, np.log(101.0), np.log(99.0)),
        ("boxes", 4, np.log(0.009), np.log(0.011)),
        ("boxes", 8, 101.0, 99.0),
        ("boxes", 9, -3e38, -99.0),
    ],
)
def test_a_candidate_that_no_box_can_be_is_dropped_and_counted(name, column, beyond, within):
    candidate = {
        "scores": np.ones(1, np.float32), "labels": np.zeros(1, np.int64),
        "cells": np.full(1, 64 * SPEC.grid.shape[1] + 64), "boxes": np.zeros((1, 10), np.float32),
    }  # fmt: skip

    def found(value):
        changed = {key: array.copy() for key, array in candidate.items()}
        changed[name][0 if column is None else (0, column)] = value
        decoded = decode(changed, SPEC)
        return len(decoded.scores), decoded.not_finite, decoded.out_of_range

    assert found(within) == (1, 0, 0) and found(beyond) == (0, 0, 1)


def test_nothing_above_the_threshold_gives_empty_arrays():
    outputs = random_outputs(0)
    outputs["scores"][:] = 0.01
    found = decode(outputs, SPEC, thresholds_of(SPEC))
    assert found.boxes.shape == (0, 7) and found.velocity.shape == (0, 2) and found.labels.shape == (0,)


def cars(xs, scores):
    """Outputs of cars on the x axis of a grid that begins at 0, in metres."""
    boxes = np.zeros((len(xs), 10))
    boxes[:, 0] = xs
    return {
        "scores": np.array(scores), "labels": np.zeros(len(xs), int), "cells": np.zeros(len(xs), int), "boxes": boxes,
    }  # fmt: skip


def test_limits_belong_to_what_they_admit():
    """A score at its threshold, a box at the end of a range, two boxes at the radius from each other."""
    spec = dataclasses.replace(SPEC, grid=BevGrid(0.0, 8.0, 0.0, 8.0, 1.0), score_threshold=dict.fromkeys(CLASSES, 0.5))
    spec = dataclasses.replace(spec, nms_radius=dict.fromkeys(CLASSES, 2.0))
    assert decode(cars([0.0, 3.0], [0.5, 0.499]), spec).boxes[:, 0].tolist() == [0.0]
    assert decode(cars([0.0, 2.0, 3.75], [0.9, 0.8, 0.7]), spec).boxes[:, 0].tolist() == [0.0, 2.0]
    by_range = Thresholds(spec.score_threshold, spec.nms_radius, {"car": ((4.0, 0.25),)})
    assert decode(cars([4.0, 6.5], [0.3, 0.3]), spec, by_range).boxes[:, 0].tolist() == [4.0]


def test_the_bundles_thresholds_hold_where_none_are_given():
    by_class = ModelSpec("m", ("c",), (), dict.fromkeys(CLASSES, 0.25), dict.fromkeys(CLASSES, 3.0))
    assert thresholds_of(by_class) == Thresholds(dict.fromkeys(CLASSES, 0.25), dict.fromkeys(CLASSES, 3.0), {})


def test_reference_candidates():
    heatmap = np.zeros((2, 5, 6), np.float32)
    heatmap[0, 1, 1], heatmap[0, 1, 2], heatmap[0, 4, 5], heatmap[1, 2, 2] = 0.9, 0.8, 0.7, 0.95
    scores, labels, cells = candidates_by_loops(heatmap, 3)
    np.testing.assert_allclose(scores, [0.95, 0.9, 0.8])
    assert labels.tolist() == [1, 0, 0]
    assert cells.tolist() == [2 * 6 + 2, 1 * 6 + 1, 1 * 6 + 2]
