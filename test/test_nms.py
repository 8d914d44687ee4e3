"""Which of several boxes stays, against loops and exact polygons."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
from test_decode import SPEC, random_outputs

from bev_perception.decode import Thresholds, decode
from bev_perception.model_spec import CLASSES, BundleError, NmsSpec, parse_spec
from bev_perception.nms import circle_nms, overlap, rotated_nms, strongest

ALL = Thresholds(dict.fromkeys(CLASSES, 0.0), SPEC.nms_radius)


def by_loops(group: np.ndarray, removes: Callable[[int, int], bool]) -> list[int]:
    """removes(k, i): whether k, which is kept, removes i."""
    kept: list[int] = []
    for i in range(len(group)):
        if not any(group[k] == group[i] and removes(k, i) for k in kept):
            kept.append(i)
    return kept


def polygon_iou(a: np.ndarray, b: np.ndarray) -> float:
    geometry = pytest.importorskip("shapely.geometry", reason="shapely comes with the nuScenes devkit")

    def polygon(box: np.ndarray) -> object:
        c, s = np.cos(box[6]), np.sin(box[6])
        corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * box[3:5] / 2
        return geometry.Polygon(corners @ np.array([[c, s], [-s, c]]) + box[:2])

    one, other = polygon(a), polygon(b)
    return one.intersection(other).area / one.union(other).area


def some_boxes(rng: np.random.Generator, count: int, spread: float) -> np.ndarray:
    boxes = rng.normal(0, spread, (count, 7)) + [40, -30, 0, 0, 0, 0, 0]
    boxes[:, 3:6], boxes[:, 6] = rng.uniform(0.3, 6.0, (count, 3)), rng.uniform(-4, 4, count)
    return boxes


@pytest.mark.parametrize("spread", [1.0, 5.0, 30.0])
def test_circle_nms_is_the_loop(spread):
    """Chains of removals, too: at 1 m nearly everybody is near somebody who is removed."""
    rng = np.random.default_rng(int(spread))
    for _ in range(20):
        centers, group = rng.normal(0, spread, (150, 2)), rng.integers(0, 3, 150)
        radii = np.array([0.4, 1.0, 3.0])[group]
        expected = by_loops(group, lambda k, i: np.linalg.norm(centers[k] - centers[i]) < radii[i])  # noqa: B023
        assert circle_nms(centers, group, radii).tolist() == expected
    line = np.stack([np.arange(0, 30, 0.6), np.zeros(50)], axis=1)  # each is near the next one only
    assert circle_nms(line, np.zeros(50, int), np.full(50, 1.0)).tolist() == list(range(0, 50, 2))


def test_circles_are_of_metres():
    centers = np.array([[0.0, 0.0], [1.9, 0.0], [2.1, 0.0], [0.0, 0.0], [3.9, 0.0]])
    group = np.array([0, 0, 0, 1, 0])
    # 2.0 m, not sqrt(2.0): the second goes, the third stays and removes the last.
    assert circle_nms(centers, group, np.full(5, 2.0)).tolist() == [0, 2, 3]
    assert circle_nms(np.zeros((0, 2)), np.zeros(0, dtype=int), np.zeros(0)).tolist() == []


def test_overlap_is_that_of_polygons():
    rng = np.random.default_rng(1)
    boxes = some_boxes(rng, 300, 2.0)
    pairs = list(zip(boxes[::2], boxes[1::2], strict=True))
    pairs += [(box, box) for box in boxes[:20]]
    pairs += [(box, box * [1, 1, 1, 0.5, 0.5, 1, 1]) for box in boxes[:20]]
    pairs += [(box, box + [0, 0, 0, 0, 0, 0, np.pi / 2]) for box in boxes[:20]]
    expected = [polygon_iou(a, b) for a, b in pairs]
    assert sum(value > 0.05 for value in expected) > 60
    np.testing.assert_allclose([overlap(a, b) for a, b in pairs], expected, atol=1e-5)
    flat = np.array([0.0, 0, 0, 4, 0, 1, 0])
    assert overlap(flat, flat) == 0.0


@pytest.mark.parametrize("iou", [0.1, 0.2, 0.5])
def test_rotated_nms_is_the_loop(iou):
    rng = np.random.default_rng(2)
    boxes, group = some_boxes(rng, 200, 4.0), rng.integers(0, 3, 200)
    expected = by_loops(group, lambda k, i: polygon_iou(boxes[k], boxes[i]) > iou)
    assert 20 < len(expected) < 190
    assert rotated_nms(boxes, group, iou).tolist() == expected
    assert rotated_nms(boxes[:0], group[:0], iou).tolist() == []


def test_the_strongest_of_each_group_stay():
    assert strongest(np.array([2, 0, 2, 2, 0, 1]), 2).tolist() == [0, 1, 2, 4, 5]
    assert strongest(np.zeros(0, int), 2).tolist() == []


def test_classes_of_a_group_thin_each_other_out():
    outputs = random_outputs(0)
    groups = (("car", "truck"), ("pedestrian", "traffic_cone"))
    alone, together = (decode(outputs, dataclasses.replace(SPEC, nms=nms), ALL) for nms in (NmsSpec(), NmsSpec(groups)))

    def nearest(found, one: str, other: str) -> float:
        a, b = (found.boxes[found.labels == CLASSES.index(name), :2] for name in (one, other))
        return float(np.linalg.norm(a[:, None] - b[None], axis=-1).min())

    for one, other in groups:
        least = min(SPEC.nms_radius[name] for name in (one, other))
        assert nearest(alone, one, other) < least <= nearest(together, one, other)
    untouched = [CLASSES.index(name) for name in CLASSES if name not in sum(groups, ())]
    for label in untouched:
        assert (alone.labels == label).sum() == (together.labels == label).sum()


def test_overlaps_in_place_of_circles_and_the_most_of_each_group():
    outputs = random_outputs(1)
    found = decode(outputs, dataclasses.replace(SPEC, nms=NmsSpec(iou=0.2)), ALL)
    group = found.labels
    expected = by_loops(group, lambda k, i: overlap(found.boxes[k], found.boxes[i]) > 0.2)
    assert expected == list(range(len(group))) and len(group) < len(outputs["scores"])
    few = decode(outputs, dataclasses.replace(SPEC, nms=NmsSpec(iou=0.2, most=3)), ALL)
    assert np.bincount(few.labels).max() == 3 and np.bincount(found.labels).max() > 3
    np.testing.assert_array_equal(few.scores, found.scores[strongest(group, 3)])


def test_scaled_boxes_of_small_things_meet_sooner():
    """Scale-NMS: at 1.2 m two boxes of 0.7 m do not meet, enlarged they do; what is published keeps its size."""
    outputs = {
        "scores": np.array([0.9, 0.8], np.float32), "labels": np.full(2, CLASSES.index("pedestrian")),
        "cells": np.array([64 * 128 + 64, 65 * 128 + 64]), "boxes": np.zeros((2, 10), np.float32),
    }  # fmt: skip
    outputs["boxes"][:, 3:6] = np.log(0.7)
    outputs["boxes"][:, 7] = 1.0
    outputs["boxes"][1, 0] = 0.5
    plain, scaled = (
        decode(outputs, dataclasses.replace(SPEC, nms=NmsSpec(iou=0.2, scale=scale)), ALL)
        for scale in ({}, {"pedestrian": 4.5})
    )
    assert (len(plain.scores), len(scaled.scores)) == (2, 1)
    np.testing.assert_allclose(scaled.boxes[0, 3:6], 0.7, rtol=1e-6)


@pytest.mark.parametrize(
    ("nms", "part"),
    [
        ({"iou": 1.5}, "nms.iou must be within"),
        ({"most": -1}, "nms.most must be within"),
        ({"scale": {"car": 0.0}}, "nms.scale.car must be within"),
        ({"scale": {"dragon": 1.0}}, "classes that there are not: \\['dragon'\\]"),
        ({"groups": [["car", "dragon"]]}, "classes that there are not: \\['dragon'\\]"),
        ({"groups": [["car"], ["car", "bus"]]}, "\\['car'\\] stand there twice"),
    ],
)
def test_a_wrong_nms_is_refused_by_its_name(nms, part):
    plain = json.loads(SPEC.to_json())
    plain["nms"] |= nms
    with pytest.raises(BundleError, match=part):
        parse_spec(json.dumps(plain))
