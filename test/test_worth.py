"""Probabilities and intervals against slow counting: what is said of a bundle's detections holds, or does not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from bev_perception.evaluation.box_errors import BOX_ERRORS, box_errors
from bev_perception.evaluation.judged import judge
from bev_perception.evaluation.objects import Objects, make_objects, objects_from_detections
from bev_perception.evaluation.worth import (
    NOTHING,
    PUBLISHED,
    add_worths,
    covered,
    half_widths,
    is_worth,
    read_worth,
    worth,
    worth_json,
)
from bev_perception.model_spec import CLASSES
from bev_perception.structures import Detections, Uncertainty
from bev_perception.uncertainty import CHANNELS, LEVELS, in_line_of_sight, turned

NORMAL = (0.6744897501960817, 1.6448536269514722, 1.959963984540054)
FACTORS = dict.fromkeys(CHANNELS, NORMAL)


def uncertainty_of(boxes: np.ndarray, probability: np.ndarray, along: float, across: float) -> Uncertainty:
    """The same deviations of places and velocities for every box; of headings 0.3 rad."""
    count = len(boxes)
    angle = np.arctan2(boxes[:, 1], boxes[:, 0])
    pose = np.zeros((count, 4, 4))
    pose[:, :2, :2] = turned(np.full(count, along**2), np.full(count, across**2), angle)
    pose[:, 2, 2], pose[:, 3, 3] = 0.04, 0.09
    return Uncertainty(probability, pose, turned(np.full(count, along**2), np.full(count, across**2), angle))


def frame(rng: np.random.Generator, scale: float = 1.0, count: int = 40) -> tuple[Objects, Detections]:
    """Cars far from each other; detections off by normal errors of 0.5 m along and 0.2 m across the line of sight,
    times `scale`; a third of them where no car is."""
    places = np.stack(np.meshgrid(np.linspace(-30, 30, 8), np.linspace(-25, 28, 6)), axis=-1).reshape(-1, 2)
    boxes = np.zeros((count, 7))
    boxes[:, :2], boxes[:, 3:6] = places[rng.permutation(len(places))[:count]], (4, 2, 2)
    labels = np.full(count, CLASSES.index("car"))
    wanted = make_objects(
        boxes, np.zeros((count, 2)), np.ones(count), ("car",) * count, num_points=np.ones(count, np.int64)
    )
    found, angle = boxes.copy(), np.arctan2(boxes[:, 1], boxes[:, 0])

    def off() -> np.ndarray:
        along, across = rng.normal(0, 0.5 * scale, count), rng.normal(0, 0.2 * scale, count)
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([along * cos - across * sin, along * sin + across * cos], axis=1)

    found[:, :2] += off()
    found[:, 6] += rng.normal(0, 0.3 * scale, count)
    away = rng.random(count) < 1 / 3
    found[away, :2] += 4.0
    said = uncertainty_of(found, np.where(away, 0.2, 0.8), 0.5, 0.2)
    return wanted, Detections(0, found, off(), rng.random(count), labels, (), {}, False, uncertainty=said)


def drawn(scale: float, frames: int = 60) -> list[tuple[Objects, Detections]]:
    rng = np.random.default_rng(3)
    return [frame(rng, scale) for _ in range(frames)]


def test_normal_errors_are_inside_as_often_as_is_said() -> None:
    found = add_worths([worth(wanted, detections, CLASSES, FACTORS) for wanted, detections in drawn(1.0)])
    assert set(found.intervals) == set(PUBLISHED)
    for name, held in found.intervals.items():
        assert held.shares() == pytest.approx(LEVELS, abs=0.03), name
    assert found.intervals["yaw"].mean_deviation() == pytest.approx(0.3)
    tight = add_worths([worth(w, d, CLASSES, FACTORS) for w, d in drawn(1.5)])
    for name, held in tight.intervals.items():
        assert held.shares()[1] < 0.78, f"{name}: errors are larger than is said"


def test_counts_are_those_of_a_slow_count() -> None:
    frames = drawn(1.0, frames=4)
    found = add_worths([worth(wanted, detections, CLASSES, FACTORS) for wanted, detections in frames])
    count, right, inside = 0, 0, 0
    for wanted, detections in frames:
        judged = judge(wanted, objects_from_detections(detections, CLASSES))
        for i in range(len(detections)):
            count += bool(judged.hit[i] or judged.false[i])
            if judged.hit[i]:
                right += 1
                off = detections.boxes[i] - wanted.boxes[judged.partner[i]]
                sigma = detections.uncertainty.pose[i, 3, 3] ** 0.5
                inside += abs((off[6] + math.pi) % (2 * math.pi) - math.pi) <= NORMAL[1] * sigma
    assert found.detections == count == sum(found.probability.count) and sum(found.probability.right) == right
    assert found.intervals["yaw"].inside[1] == inside and found.intervals["x"].count == right
    rates = {round(said, 1): share for said, share, _ in found.probability.points()}
    assert set(rates) == {0.2, 0.8} and rates[0.2] < 0.1 < 0.9 < rates[0.8]


def test_x_is_the_line_of_sight_of_what_is_ahead() -> None:
    boxes = np.array([[20.0, 0, 0, 4, 2, 2, 0], [0, 20.0, 0, 4, 2, 2, 0], [20.0, 20.0, 0, 4, 2, 2, 0]])
    factors = FACTORS | {"along": (1.0, 2.0, 3.0), "across": (0.5, 1.0, 1.5)}
    deviations, inside = half_widths(boxes, uncertainty_of(boxes, np.ones(3), 0.5, 0.2), factors)
    np.testing.assert_allclose(deviations["x"], [0.5, 0.2, math.hypot(0.5, 0.2) / math.sqrt(2)])
    np.testing.assert_allclose(inside["x"][0], 0.5 * np.array([1, 2, 3]))
    np.testing.assert_allclose(inside["x"][1], 0.2 * np.array([0.5, 1, 1.5]))
    np.testing.assert_allclose(
        inside["x"][2], np.hypot(0.5 * np.array([1, 2, 3]), 0.2 * np.array([0.5, 1, 1.5])) / 2**0.5
    )
    np.testing.assert_allclose(inside["y"], inside["x"][[1, 0, 2]])
    np.testing.assert_allclose(inside["vx"][0], 0.5 * np.array(NORMAL))


def test_errors_that_a_class_does_not_have_do_not_count() -> None:
    boxes = np.tile([10.0, 0, 1, 1, 1, 1, 0.1], (3, 1))
    names = ("car", "traffic_cone", "barrier")
    wanted = make_objects(boxes, np.zeros((3, 2)), np.ones(3), names)
    off = boxes.copy()
    off[:, 0] += 0.5
    off[:, 6] += np.pi + 0.2
    found = make_objects(off, np.full((3, 2), 2.0), np.ones(3), names)
    errors = box_errors(wanted, found, np.arange(3), np.arange(3))
    assert errors.shape == (3, len(BOX_ERRORS)) and (errors[:, 0] == 0.5).all()
    yaw, speed = errors[:, BOX_ERRORS.index("yaw")], errors[:, BOX_ERRORS.index("vx")]
    np.testing.assert_allclose(yaw, [0.2 - np.pi, np.nan, 0.2])
    np.testing.assert_allclose(speed, [2.0, np.nan, np.nan])
    along = in_line_of_sight(off, errors[:, :2])[:, 0]
    np.testing.assert_allclose(along, 0.5)
    held = covered(yaw, np.full(3, 0.5), np.full((3, 3), 0.3))
    assert (held.count, held.inside, held.deviation) == (2, (1, 1, 1), 1.0)


def test_sums_add_up_and_come_back_from_a_file(tmp_path: Path) -> None:
    parts = [worth(wanted, detections, CLASSES, FACTORS) for wanted, detections in drawn(1.0, frames=3)]
    whole = add_worths(parts)
    halves = add_worths([add_worths(parts[:1]), add_worths(parts[1:]), NOTHING])
    assert (
        halves.probability.count == whole.probability.count
        and halves.intervals["x"].inside == whole.intervals["x"].inside
    )
    assert add_worths([]) == NOTHING and math.isnan(NOTHING.intervals["x"].shares()[0])
    (tmp_path / "worth.json").write_text(worth_json(whole))
    assert read_worth(tmp_path / "worth.json") == whole and is_worth(tmp_path / "worth.json")
    (tmp_path / "other.json").write_text('{"mean_ap": 0.5}')
    assert not is_worth(tmp_path / "other.json") and not is_worth(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"other\.json.*unknown keys \['mean_ap'\]"):
        read_worth(tmp_path / "other.json")
