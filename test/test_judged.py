"""What is worth looking at: hits and misses as the score has them, the worst frames, one object over time."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bev_perception.evaluation.followed_object import Follower
from bev_perception.evaluation.judged import judge
from bev_perception.evaluation.look import Look, read_look, write_look
from bev_perception.evaluation.matching import NOTHING, TRUE_AT, Matched, match
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.evaluation.reliability import add_reliabilities, reliability, score_reliability
from bev_perception.evaluation.worst_frames import APART_NS, Scene, WorstFrames

NAMES = ("car", "pedestrian", "traffic_cone", "no_class")


def drawn(rng: np.random.Generator, count: int, scores: bool) -> Objects:
    boxes = np.column_stack([rng.uniform(-60, 60, (count, 2)), np.zeros(count), np.ones((count, 3)), np.zeros(count)])
    names = tuple(rng.choice(NAMES, count))
    points = None if scores else rng.integers(-1, 3, count)
    return make_objects(
        boxes, np.zeros((count, 2)), rng.random(count) if scores else np.ones(count), names, None, points
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_frame_is_judged_as_it_is_scored(seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = drawn(rng, 60, False)
    near = rng.integers(0, 60, 700)
    found = drawn(rng, 700, True)
    found.boxes[:, :2] = wanted.boxes[near, :2] + rng.normal(0, 2, (700, 2))
    found = dataclasses.replace(found, names=tuple(wanted.names[k] for k in near))
    judged = judge(wanted, found)
    matched = match(wanted, found).values()
    hits = sum(int(m.true[:, TRUE_AT].sum()) for m in matched)
    assert judged.totals() == (hits, sum(len(m.scores) for m in matched) - hits, sum(m.wanted for m in matched) - hits)
    partners = judged.partner[judged.hit]
    assert len(set(partners)) == len(partners) and not judged.missed[partners].any()
    assert all(found.names[i] == wanted.names[j] for i, j in enumerate(judged.partner) if j >= 0)
    apart = np.linalg.norm(found.boxes[judged.hit, :2] - wanted.boxes[partners, :2], axis=1)
    assert (apart < 2).all()


def test_the_worst_frames_are_of_different_moments() -> None:
    errors = [3, 9, 8, 0, 0, 5, 7, 7, 1, 2, 4, 6]
    step = APART_NS // 2
    worst = WorstFrames(count=3)
    for k, count in enumerate(errors):
        if worst.wants(k * step, count):
            worst.add(Scene(k * step, b"", (0, count, 0)))
    assert [(scene.stamp_ns // step, scene.errors()) for scene in worst.scenes()] == [(1, 9), (6, 7), (11, 6)]
    assert not worst.wants(50 * step, 0), "a frame without an error is none of the worst"


def test_one_object_is_followed_with_its_velocity() -> None:
    """A car ahead that drives to the left at 5 m/s and away at 1 m/s; a parked one is there for longer."""
    follower = Follower()
    for k in range(6):
        boxes = np.array([[20.0, 0, 0, 4, 2, 1.5, 0], [0, 10.0, 0, 4, 2, 1.5, 0]])[: 2 if k < 4 else 1][::-1]
        velocity = np.array([[0.0, 0], [0, 0]])[: len(boxes)]
        ids = ("parked", "moving")[::-1][-len(boxes) :]
        if k < 4:
            boxes, velocity, ids = boxes[[1, 0]], np.array([[1.0, 5.0], [0, 0]]), ("moving", "parked")
        wanted = make_objects(boxes, velocity, np.ones(len(boxes)), ("car",) * len(boxes), ids=ids)
        found = wanted.select(np.arange(len(boxes)) != 0) if k == 2 else wanted
        found = dataclasses.replace(found, velocity=found.velocity + [0.5, -1.0], scores=found.scores * 0.7)
        follower.add(k * 10**9 // 2, wanted, found, judge(wanted, found))
    best = follower.best()
    assert best is not None and (best.id, best.name, len(best.moments), best.found()) == ("moving", "car", 4, 3)
    assert [m.seconds for m in best.moments] == [0, 0.5, 1, 1.5]
    one = best.moments[0]
    assert (one.metres, one.along, one.across) == (20, 1, 5)
    assert (one.found_along, one.found_across, one.off_m, one.score) == pytest.approx((1.5, 4, 0, 0.7))
    assert best.moments[2].off_m is None and best.moments[2].along == 1


def test_an_object_that_left_is_another_when_it_comes_back() -> None:
    follower = Follower()
    for second in (0, 1, 10, 11, 12):
        one = make_objects(np.array([[9.0, 0, 0, 4, 2, 1, 0]]), np.zeros((1, 2)), np.ones(1), ("car",), ids=("7",))
        follower.add(second * 10**9, one, one, judge(one, one))
    best = follower.best()
    assert best is not None and [m.seconds for m in best.moments] == [10, 11, 12]


def test_what_is_kept_comes_back_from_its_files(tmp_path) -> None:
    follower = Follower()
    one = make_objects(np.array([[9.0, 0, 0, 4, 2, 1, 0]]), np.zeros((1, 2)), np.ones(1), ("car",), ids=("7",))
    follower.add(5, one, one, judge(one, one))
    look = Look((Scene(1_700_000_000_000_000_001, b"\xff\xd8", (1, 2, 3)),), follower.best())
    write_look(tmp_path, look)
    assert read_look(tmp_path) == look
    write_look(tmp_path / "none", Look((), None))
    assert read_look(tmp_path / "none") == Look((), None)


def test_reliability_is_the_share_that_is_right_of_each_score() -> None:
    scores = np.array([0.05, 0.15, 0.19, 0.95, 0.95, 1.0, 1.0])
    right = np.array([0, 0, 1, 1, 1, 1, 0], bool)
    true = np.zeros((7, 4), bool)
    true[:, TRUE_AT] = right
    rows = Matched(scores, true, np.full((7, 5), np.nan), 9)
    found = reliability(scores, right, bins=10)
    assert found.count == (1, 2, 0, 0, 0, 0, 0, 0, 0, 4) and found.right == (0, 1, 0, 0, 0, 0, 0, 0, 0, 3)
    np.testing.assert_allclose(found.points(), [(0.05, 0, 1), (0.17, 0.5, 2), (0.975, 0.75, 4)])
    assert found.error() == pytest.approx((0.05 + 2 * abs(0.17 - 0.5) + 4 * abs(0.975 - 0.75)) / 7)
    assert np.isnan(score_reliability([NOTHING]).error())
    assert score_reliability([rows, NOTHING]) == reliability(scores, right)
    both = add_reliabilities([found, reliability(scores[:2], right[:2], bins=10)])
    assert both.count[:2] == (2, 3) and both.right[1] == 1 and both.said[0] == pytest.approx(0.1)
