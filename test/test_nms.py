"""Which of several boxes stays, against loops and exact polygons."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest
from test_decode import SPEC, random_outputs

from bev_perception.decode import Thresholds, decode
from bev_perception.model_spec import CLASSES, BundleError, NmsGroup, parse_spec
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
    boxes, group = some_boxes(rng, 200, 3.0), rng.integers(0, 3, 200)
    expected = by_loops(group, lambda k, i: polygon_iou(boxes[k], boxes[i]) > iou)
    assert 20 < len(expected) < 190
    assert rotated_nms(boxes, group, np.full(200, iou)).tolist() == expected
    assert rotated_nms(boxes[:0], group[:0], np.zeros(0)).tolist() == []


def test_the_strongest_of_each_group_stay():
    assert strongest(np.array([2, 0, 2, 2, 0, 1]), np.full(6, 2)).tolist() == [0, 1, 2, 4, 5]
    assert strongest(np.array([2, 0, 2, 2, 0, 1]), np.array([2, 1, 2, 2, 1, 0])).tolist() == [0, 1, 2, 5]
    assert strongest(np.zeros(0, int), np.zeros(0, int)).tolist() == []


def decoded(outputs, *groups: NmsGroup):
    return decode(outputs, dataclasses.replace(SPEC, nms=groups), ALL)


def of(found, *names: str):
    return np.isin(found.labels, [CLASSES.index(name) for name in names])


def test_classes_of_a_group_thin_each_other_out():
    outputs = random_outputs(0)
    pairs = (("car", "truck"), ("pedestrian", "traffic_cone"))
    alone, together = decoded(outputs), decoded(outputs, *map(NmsGroup, pairs))

    def nearest(found, one: str, other: str) -> float:
        return float(
            np.linalg.norm(found.boxes[of(found, one), None, :2] - found.boxes[of(found, other), :2], axis=-1).min()
        )

    for one, other in pairs:
        least = min(SPEC.nms_radius[name] for name in (one, other))
        assert nearest(alone, one, other) < least <= nearest(together, one, other)
    for name in set(CLASSES) - set(sum(pairs, ())):
        assert of(alone, name).sum() == of(together, name).sum() > 0


def test_overlaps_in_place_of_circles_and_the_most_of_each_group():
    outputs = random_outputs(1)
    by_circles = decoded(outputs)
    mixed, few = (decoded(outputs, NmsGroup(("car", "bus"), 0.2, (), most)) for most in (0, 3))
    boxes = mixed.boxes[of(mixed, "car", "bus")]
    assert max(overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i]) <= 0.2
    assert 3 < len(boxes) < np.isin(outputs["labels"], [CLASSES.index("car"), CLASSES.index("bus")]).sum()
    np.testing.assert_array_equal(few.boxes[of(few, "car", "bus")], boxes[:3])
    for found in (mixed, few):
        others = by_circles.boxes[~of(by_circles, "car", "bus")]
        np.testing.assert_array_equal(found.boxes[~of(found, "car", "bus")], others)
        assert (np.diff(found.scores) <= 0).all()


def test_scaled_boxes_of_small_things_meet_sooner():
    """Scale-NMS: at 1.2 m two boxes of 0.7 m do not meet, enlarged they do; what is published keeps its size."""
    outputs = {
        "scores": np.array([0.9, 0.8], np.float32), "labels": np.full(2, CLASSES.index("pedestrian")),
        "cells": np.array([64 * 128 + 64, 65 * 128 + 64]), "boxes": np.zeros((2, 10), np.float32),
    }  # fmt: skip
    outputs["boxes"][:, 3:6] = np.log(0.7)
    outputs["boxes"][:, 7] = 1.0
    outputs["boxes"][1, 0] = 0.5
    plain, scaled = (decoded(outputs, NmsGroup(("pedestrian", "bus"), 0.2, scale)) for scale in ((), (4.5, 1.0)))
    assert (len(plain.scores), len(scaled.scores)) == (2, 1)
    np.testing.assert_allclose(scaled.boxes[0, 3:6], 0.7, rtol=1e-6)


@pytest.mark.parametrize(
    ("nms", "part"),
    [
        ([{"iou": 1.5}], "nms.iou must be within"),
        ([{"most": -1}], "nms.most must be within"),
        ([{"scale": [0.0]}], "nms.scale must be within"),
        ([{"scale": [1.0, 2.0]}], "nms.scale needs a number for each of"),
        ([{"classes": ["car", "dragon"]}], r"classes that there are not: \['dragon'\]"),
        ([{}, {"classes": ["bus", "car"]}], r"\['car'\] stand there twice"),
        ([{"radius": 1.0}], "unknown keys"),
    ],
)
def test_a_wrong_nms_is_refused_by_its_name(nms, part):
    plain = json.loads(SPEC.to_json())
    plain["nms"] = [{"classes": ["car"], "iou": 0.0, "scale": [], "most": 0} | group for group in nms]
    with pytest.raises(BundleError, match=part):
        parse_spec(json.dumps(plain))
