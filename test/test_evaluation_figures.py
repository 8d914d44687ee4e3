"""What `evaluate` measures and decides with, in closed forms: consistency, the paired bootstrap, gates, tallies."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from bev_perception.evaluation.benchmark import curve
from bev_perception.evaluation.consistency import Consistency
from bev_perception.evaluation.matching import CLASS_RANGE, Matched, join, match
from bev_perception.evaluation.metrics import Tally, add_tallies, score, score_tally, tally
from bev_perception.evaluation.objects import Objects, make_objects
from bev_perception.evaluation.paired import compare_scores
from bev_perception.evaluation.score_gate import faults_of, parse_score_gate
from bev_perception.evaluation.tally_file import read_tally, tally_bytes
from bev_perception.geometry import make_transform, rotation_from_yaw
from bev_perception.structures import Detections, EgoPose

CLASSES = ("car", "pedestrian")
NO_RADAR = np.zeros((0, 7), dtype=np.float32)
STEP_S = 0.1


# ---- consistency


def seen(k: int, world: list[tuple[float, float, float, float, float]], label: int = 0) -> tuple[Detections, EgoPose]:
    """Frame k of a vehicle that drives a bend, with boxes at (x, y, yaw) and velocity (vx, vy) of the world."""
    angle = 0.05 * k
    odom_from_ego = make_transform(rotation_from_yaw(angle), np.array([1.2 * k, 0.1 * k, 0.0]))
    ego = EgoPose(int(k * STEP_S * 1e9) + 1, odom_from_ego)
    turn = rotation_from_yaw(-angle)[:2, :2]
    boxes = np.zeros((len(world), 7), dtype=np.float32)
    velocity = np.zeros((len(world), 2), dtype=np.float32)
    for i, (x, y, yaw, vx, vy) in enumerate(world):
        boxes[i, :2] = turn @ (np.array([x, y]) - odom_from_ego[:2, 3])
        boxes[i, 3:6], boxes[i, 6] = (4.0, 2.0, 1.5), yaw - angle
        velocity[i] = turn @ np.array([vx, vy])
    labels = np.full(len(world), label, dtype=np.int64)
    return Detections(ego.stamp_ns, boxes, velocity, np.linspace(0.9, 0.5, len(world), dtype=np.float32), labels), ego


def moved(k: int) -> tuple[float, float, float, float, float]:
    return 10 + 8 * STEP_S * k, 3 - 2 * STEP_S * k, 0.3, 8.0, -2.0


def test_what_moves_as_it_says_is_kept_and_nowhere_else() -> None:
    found = Consistency(CLASSES)
    for k in range(6):
        found.add(*seen(k, [moved(k), (20.0, -5.0, 0.0, 0.0, 0.0)]), NO_RADAR)
    figures = found.figures()
    assert figures["kept"] == 1 and figures["flicker"] == 0 and figures["turned_around"] == 0
    assert figures["place_m"] < 1e-5
    assert math.isnan(figures["radar_seen"]) and math.isnan(figures["radial_mps"])


def test_a_box_that_is_gone_for_one_frame_flickers() -> None:
    found = Consistency(CLASSES)
    for k in range(6):
        found.add(*seen(k, [(20.0, -5.0, 0.0, 0.0, 0.0)] + [moved(k)] * (k != 3)), NO_RADAR)
    figures = found.figures()
    assert figures["kept"] == pytest.approx(8 / 9), "nine boxes could have had a successor"
    assert figures["flicker"] == pytest.approx(1 / 9)


@pytest.mark.parametrize("change", ["class", "epoch", "gap", "place"])
def test_another_object_is_not_followed(change: str) -> None:
    found = Consistency(CLASSES)
    first, ego = seen(0, [moved(0)])
    found.add(first, ego, NO_RADAR)
    second, ego = seen(1, [moved(1)] if change != "place" else [(14.0, 3.0, 0.3, 8.0, -2.0)])
    if change == "class":
        second = dataclasses.replace(second, labels=second.labels + 1)
    if change == "epoch":
        ego = dataclasses.replace(ego, epoch=1)
    if change == "gap":
        second = dataclasses.replace(second, stamp_ns=second.stamp_ns + 10**9)
    found.add(second, ego, NO_RADAR)
    kept = found.figures()["kept"]
    assert math.isnan(kept) if change in ("epoch", "gap") else kept == 0


def test_a_heading_that_turns_around_is_counted_once() -> None:
    found = Consistency(CLASSES)
    for k in range(4):
        x, y, yaw, vx, vy = moved(k)
        found.add(*seen(k, [(x, y, yaw + math.pi * (k == 3), vx, vy)]), NO_RADAR)
    assert found.figures()["turned_around"] == pytest.approx(1 / 3)


def test_radar_returns_say_whether_a_box_moves_as_it_says() -> None:
    """A car ahead that is said to do 8 m/s, with returns of 5 m/s along the line of sight; none at another car."""
    detections, ego = seen(0, [(10.0, 0.0, 0.0, 8.0, 0.0), (0.0, 15.0, 0.0, 0.0, 0.0)])
    returns = np.zeros((3, 7), dtype=np.float32)
    returns[:2, :2], returns[:2, 4] = [[9.0, 0.0], [8.5, 0.0]], 5.0
    returns[2, :2] = [30.0, 0.0]
    found = Consistency(CLASSES)
    found.add(detections, ego, returns)
    figures = found.figures()
    assert figures["radar_seen"] == 0.5 and figures["radial_mps"] == pytest.approx(3.0, abs=1e-5)
    pedestrians, ego = seen(0, [(10.0, 0.0, 0.0, 8.0, 0.0)], label=1)
    found = Consistency(CLASSES)
    found.add(pedestrians, ego, returns)
    assert math.isnan(found.figures()["radar_seen"]), "a radar need not see a pedestrian"


# ---- matching and curves


def cars(places: list[float], scores: list[float] | None = None, points: int = 3) -> Objects:
    boxes = np.array([[10.0, y, 0, 4, 2, 1.5, 0] for y in places]).reshape(-1, 7)
    strength = np.ones(len(places)) if scores is None else np.array(scores)
    return make_objects(
        boxes, np.zeros((len(places), 2)), strength, ("car",) * len(places), num_points=np.full(len(places), points)
    )


def test_frames_put_together_score_as_frames_at_once() -> None:
    rng = np.random.default_rng(0)
    truth = {k: cars(list(rng.uniform(-20, 20, 5))) for k in range(12)}
    found = {
        k: cars(list(o.boxes[:, 1] + rng.normal(0, 0.7, 5)), list(rng.uniform(0.1, 0.9, 5)), -1)
        for k, o in truth.items()
    }
    parts = [add_tallies([tally(truth[k], found[k]) for k in some]) for some in (range(5), range(5, 6), range(6, 12))]
    assert score_tally(add_tallies(parts)).to_dict() == score(truth, found).to_dict()


def test_weights_count_drives_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    drives = [
        match(cars(list(rng.uniform(-9, 9, 6))), cars(list(rng.uniform(-9, 9, 8)), list(rng.uniform(0, 1, 8)), -1))[
            "car"
        ]
        for _ in range(4)
    ]
    whole = join(drives)
    of_row = np.repeat(np.arange(4), [len(d.scores) for d in drives])
    plain, weighed = curve(whole), curve(whole, np.ones(len(of_row)), float(whole.wanted))
    assert np.array_equal(plain.precision, weighed.precision) and np.array_equal(plain.errors, weighed.errors)
    weights = np.array([2.0, 0.0, 1.0, 3.0])
    repeated = join([d for d, w in zip(drives, weights) for _ in range(int(w))])
    wanted = float(sum(w * d.wanted for w, d in zip(weights, drives)))
    several, again = curve(whole, weights[of_row], wanted), curve(repeated)
    assert repeated.wanted == wanted
    assert np.abs(several.precision - again.precision).max() < 0.2, "steps between equal rows alone differ"
    assert np.mean(several.ap()) == pytest.approx(np.mean(again.ap()), abs=0.03)


def test_a_box_without_a_size_is_refused() -> None:
    flat = cars([0.0])
    flat.boxes[0, 4] = 0.0
    with pytest.raises(ValueError, match="a car has a size of 0 m; expected sizes above 0"):
        match(cars([0.0]), flat)


# ---- the paired bootstrap


def drive(offset: float, scores: list[float], seed: int, frames: int = 5) -> Tally:
    """Five cars a frame, found at `offset` metres from where they are."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(frames):
        places = list(np.sort(rng.uniform(-20, 20, 5)))
        parts.append(tally(cars(places), cars([y + offset for y in places], scores, -1)))
    return add_tallies(parts)


GOOD = [0.9, 0.8, 0.7, 0.6, 0.5]


def test_the_better_one_is_told_from_the_same() -> None:
    near = [drive(0.1, GOOD, seed) for seed in range(8)]
    far = [drive(0.8 if seed % 3 else 0.1, GOOD, seed) for seed in range(8)]
    better = compare_scores(far, near, draws=200)["mean_ap"]
    assert better.low > 0 and better.low <= better.value <= better.high
    mean = [score_tally(add_tallies(drives)).mean_ap for drives in (near, far)]
    assert better.value == pytest.approx(mean[0] - mean[1], abs=1e-12)
    worse = compare_scores(near, far, draws=200)["mean_ap"]
    assert (worse.low, worse.high) == pytest.approx((-better.high, -better.low))
    same = compare_scores(near, near, draws=50)["nds"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert better.text() == f"{better.value * 100:+.1f} [{better.low * 100:+.1f}, {better.high * 100:+.1f}]"


def test_noise_is_not_called_a_gain() -> None:
    """Each is the better one on half of the drives."""
    a = [drive(0.1 if seed % 2 else 0.8, GOOD, seed) for seed in range(8)]
    b = [drive(0.8 if seed % 2 else 0.1, GOOD, seed) for seed in range(8)]
    found = compare_scores(a, b, draws=200)["mean_ap"]
    assert found.low < 0 < found.high


def test_one_drive_tells_no_spread_and_other_frames_no_difference() -> None:
    one = compare_scores([drive(0.8, GOOD, 0)], [drive(0.1, GOOD, 0)])["mean_ap"]
    assert one.value > 0 and math.isnan(one.low) and math.isnan(one.high)
    with pytest.raises(ValueError, match="different frames"):
        compare_scores([drive(0.1, GOOD, 0)], [drive(0.1, GOOD, 0, frames=4)])


# ---- gates


def test_bounds_and_what_they_say() -> None:
    gate = parse_score_gate("a.b: {min: 0.5}\nc: {max: 2}\nd: {min: 1, max: 3}\n")
    assert faults_of(gate, {"a.b": 0.5, "c": 2.0, "d": 2.0, "e": 9.0}) == []
    assert faults_of(gate, {"a.b": 0.4, "c": 2.1, "d": math.nan}) == [
        "a.b is 0.4, asked for is at least 0.5",
        "c is 2.1, asked for is at most 2",
        "d could not be measured, asked for is at least 1 and at most 3",
    ]
    never = parse_score_gate("lost.step_failed: {max: 0}\nused.CAM_BACK: {min: 0.9}\n")
    assert faults_of(never, {"a.b": 1.0}) == ["used.CAM_BACK is 0, asked for is at least 0.9"]
    with pytest.raises(ValueError, match=r"no figure \['d'\]; there are a.b, c"):
        faults_of(gate, {"a.b": 1.0, "c": 1.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected lines such as"),
        ("- a", "expected lines such as"),
        ("a: 3", "expected {min: NUMBER}"),
        ("a: {least: 3}", "expected {min: NUMBER}"),
        ("a: {}", "expected {min: NUMBER}"),
        ("a: {min: high}", "min is 'high', expected a number"),
        ("a: {min: true}", "min is True, expected a number"),
        ("a: {max: .nan}", "expected a number"),
    ],
)
def test_a_gate_that_is_none(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_score_gate(text)


# ---- tallies on disk


def test_a_tally_comes_back_as_it_went(tmp_path: Path) -> None:
    before = drive(0.3, GOOD, 0)
    (tmp_path / "tally.npz").write_bytes(tally_bytes(before))
    after = read_tally(tmp_path / "tally.npz")
    assert after.frames == before.frames and after.ranges.keys() == before.ranges.keys()
    pairs = [(before.whole, after.whole), *((before.ranges[k], after.ranges[k]) for k in before.ranges)]
    for one, other in pairs:
        for name in CLASS_RANGE:
            for part in dataclasses.fields(Matched):
                a, b = getattr(one[name], part.name), getattr(other[name], part.name)
                assert np.array_equal(a, b, equal_nan=part.name == "errors") and np.shape(a) == np.shape(b)
    assert score_tally(after).to_dict() == score_tally(before).to_dict()


@pytest.mark.parametrize("damage", ["cut", "no zip", "other arrays"])
def test_a_damaged_tally_is_told(tmp_path: Path, damage: str) -> None:
    data = tally_bytes(drive(0.3, GOOD, 0))
    path = tmp_path / "tally.npz"
    if damage == "other arrays":
        np.savez(path, frames=np.array(1))
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"nothing of the kind")
    with pytest.raises(ValueError, match="is no tally of this version"):
        read_tally(path)
