"""The gate, the agreement of two models, the plan of a shadow and the watch: against definitions and by cases."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bev_perception.deployment.agreement import MATCH_M, Agreement, Cell, compare
from bev_perception.deployment.gate import (
    EMPTY_FRAMES,
    SLOW_FRAMES,
    Gate,
    GateError,
    allowed_ms,
    fault_of,
    judge_facts,
    judge_memory,
    judge_mounts,
    judge_scores,
    judge_shadow,
    parse_gate,
)
from bev_perception.deployment.serving import Stepped
from bev_perception.deployment.shadow import LEAST_SHARE, Findings, Pace, plan
from bev_perception.deployment.watch import Watch
from bev_perception.grid import BevGrid
from bev_perception.model_spec import BundleError, ModelSpec, RadarSpec, TemporalSpec
from bev_perception.stated_scores import SCORES, StatedScores, read_scores, scores_json
from bev_perception.structures import Detections

CLASSES = ("car", "bus")
SPEC = ModelSpec("m", ("cam",), ("radar",), {"car": 0.1, "bus": 0.1}, {"car": 1.0, "bus": 1.0}, CLASSES)


def found(*rows: tuple[float, float, int, float], velocity: float = 0.0) -> Detections:
    """Rows of x, y, label, score, sorted by score."""
    rows = tuple(sorted(rows, key=lambda row: -row[3]))
    boxes = np.zeros((len(rows), 7), np.float32)
    boxes[:, :2] = np.array([row[:2] for row in rows], np.float32).reshape(-1, 2)
    scores, labels = np.array([r[3] for r in rows], np.float32), np.array([r[2] for r in rows], np.int64)
    return Detections(0, boxes, np.full((len(rows), 2), velocity, np.float32), scores, labels)


# ---- agreement


def test_a_model_agrees_with_itself() -> None:
    one = found((1, 1, 0, 0.9), (20, 0, 1, 0.8), (40, 5, 0, 0.3))
    same = compare(one, CLASSES, one, CLASSES)
    assert same.total() == Cell(both=3) and same.total().share == 1.0
    assert {key: cell.both for key, cell in same.cells.items()} == {("car", 0): 1, ("bus", 1): 1, ("car", 2): 1}


def test_what_has_no_partner_and_how_far_partners_are() -> None:
    mine = found((10, 0, 0, 0.9), (10, 5, 1, 0.5), velocity=1.0)
    theirs = found((10, 1, 0, 0.7), (10, 5, 0, 0.5))
    agreement = compare(mine, CLASSES, theirs, CLASSES)
    cell = agreement.total()
    assert (cell.both, cell.mine, cell.theirs) == (1, 1, 1) and cell.share == 0.5
    assert cell.distance_m == pytest.approx(1.0) and cell.velocity_mps == pytest.approx(math.sqrt(2))
    assert cell.score == pytest.approx(0.2) and agreement.total("bus") == Cell(mine=1)


def test_classes_are_matched_by_name_and_empty_frames_agree_on_nothing() -> None:
    one, other = found((1, 1, 0, 0.9)), found((1, 1, 1, 0.9))
    assert compare(one, CLASSES, other, ("bus", "car")).total().share == 1.0
    assert math.isnan(compare(found(), CLASSES, found(), CLASSES).total().share)
    assert compare(found(), CLASSES, one, CLASSES).total() == Cell(theirs=1)
    assert compare(one, CLASSES, found(), CLASSES).total() == Cell(mine=1)


def slow_pairs(mine: Detections, theirs: Detections) -> int:
    """Matched pairs by the definition: by falling score, the nearest that is left, of the class, within MATCH_M."""
    left, pairs = list(range(len(theirs))), 0
    for i in range(len(mine)):
        near = [
            (math.dist(mine.boxes[i, :2], theirs.boxes[j, :2]), j)
            for j in left
            if theirs.labels[j] == mine.labels[i] and math.dist(mine.boxes[i, :2], theirs.boxes[j, :2]) <= MATCH_M
        ]
        if near:
            left.remove(min(near)[1])
            pairs += 1
    return pairs


def test_matching_is_that_of_the_definition_and_sums_add_up() -> None:
    rng = np.random.default_rng(3)
    whole, parts = Agreement(), []
    for _ in range(60):
        frames = [
            found(*((*rng.uniform(-9, 9, 2), int(rng.integers(2)), float(rng.random())) for _ in range(count)))
            for count in rng.integers(12, size=2)
        ]
        one = compare(frames[0], CLASSES, frames[1], CLASSES)
        cell = one.total()
        assert cell.both == slow_pairs(*frames)
        assert (cell.both + cell.mine, cell.both + cell.theirs) == (len(frames[0]), len(frames[1]))
        parts.append(one)
        whole += one
    backwards = sum(reversed(parts), Agreement())
    assert whole.frames == backwards.frames == 60
    assert whole.total().both == backwards.total().both
    by_class = whole.total("car").both + whole.total("bus").both
    assert by_class == whole.total().both == sum(whole.total(bin=b).both for b in range(4))


# ---- the plan of a shadow


@pytest.mark.parametrize(
    ("period", "mine", "theirs", "share"),
    [(100, 20, 40, 1.0), (100, 20, 80, 1.0), (100, 60, 80, 0.5), (100, 60, 110, 1 / 3), (100, 150, 100, LEAST_SHARE)],
)
def test_the_share_is_what_is_left_of_the_period(period: float, mine: float, theirs: float, share: float) -> None:
    for channels in (0, 6):
        chosen = plan(Pace(period, period / 1e3), mine, theirs, TemporalSpec(state_channels=channels))
        assert chosen.share == pytest.approx(share) and f"{mine:.0f} and {theirs:.0f} ms" in chosen.why


@pytest.mark.parametrize("slower", [1, 4])
@pytest.mark.parametrize("left", [0, 2, 5, 9, 15, 30, 70, 99])
@pytest.mark.parametrize("period", [50.0, 83.0, 100.0, 500.0, 1000.0])
def test_a_network_with_memory_always_has_a_state_of_the_right_age(period: float, left: int, slower: int) -> None:
    temporal = TemporalSpec(state_channels=6)
    chosen = plan(Pace(slower * period, period / 1e3), slower * period * (1 - left / 100), slower * period, temporal)
    seen = [n for n in range(6 * chosen.cycle) if chosen.wants(n)]
    assert len(seen) == 6 * len(chosen.takes)
    if left > 2:
        assert chosen.share <= left / 100 + 1e-9
    ages = [(b - a) * period / 1e3 for i, b in enumerate(seen) for a in seen[:i]]
    usable = [age for age in ages if temporal.min_age_s <= age <= temporal.max_age_s]
    assert usable, chosen


# ---- facts, scores, memory


def test_every_difference_to_the_rig_is_named() -> None:
    def judged(**changes: Any) -> str:
        return judge_facts(dataclasses.replace(SPEC, **changes), SPEC, Gate()).reason

    assert judge_facts(SPEC, SPEC, Gate()).reason == ""
    reason = judged(cameras=("cam", "more"), radars=(), radar=RadarSpec(sweeps=3))
    assert reason.startswith("other_sensors: ") and "'more'" in reason and "radars are []" in reason
    assert "radar.sweeps is 3" in judged(radar=RadarSpec(sweeps=3))
    assert "radar.max_age_s is 0.5" in judged(radar=RadarSpec(max_age_s=0.5))
    thresholds = dict(score_threshold={"car": 0.1, "van": 0.1}, nms_radius={"car": 1.0, "van": 1.0})
    assert "lacks ['bus'], adds ['van']" in judged(classes=("car", "van"), **thresholds)
    assert judged(classes=("bus", "car")).startswith("other_classes: the candidate has them in another order")
    grid = BevGrid(-10, 10, -10, 10, 0.5)
    assert judged(grid=grid).startswith("other_grid")
    free = Gate(classes="any", grid="any")
    other = dataclasses.replace(SPEC, grid=grid, classes=("bus", "car"))
    assert judge_facts(other, SPEC, free).reason == ""


def test_no_camera_may_be_lost_that_the_model_in_service_has() -> None:
    one, two = {"a": "a is rolled"}, {"a": "a is rolled", "b": "b stands 2 m above the ground"}
    for candidate, running, reason, note in (
        ({}, {}, "", ""),
        ({}, one, "", ""),
        (one, one, "", "other_mounts: a is rolled"),
        (one, two, "", "other_mounts: a is rolled"),
        (two, one, "other_mounts: b stands 2 m above the ground; ", ""),
        (one, {}, "other_mounts: a is rolled; ", ""),
    ):
        judged = judge_mounts(candidate, running, Gate())
        assert judged.note == note and judged.reason.startswith(reason) and bool(judged.reason) == bool(reason)
        assert ("mounts: any" in judged.reason) == bool(reason)
        assert judge_mounts(candidate, running, Gate(mounts="any")).reason == ""
    assert judge_mounts(two, one, Gate(mounts="any")).note == "other_mounts: a is rolled; b stands 2 m above the ground"


def stated(mean_ap: float = 0.5, nds: float = 0.5, frames: int = 10, objects: int = 7) -> StatedScores:
    return StatedScores("a" * 64, mean_ap, nds, frames, {"car": objects}, {"car": mean_ap})


def test_scores_are_compared_on_the_same_data_only() -> None:
    gate = Gate(map_loss=0.01, nds_loss=0.02)
    assert judge_scores(stated(0.491, 0.481), stated(), gate).reason == ""
    assert judge_scores(stated(0.489, 0.5), stated(), gate).reason == "worse_scores: mAP -0.0110, allowed -0.01"
    both = judge_scores(stated(0.4, 0.4), stated(), gate)
    assert "mAP -0.1" in both.reason and "NDS -0.1" in both.reason and both.figures["map"] == 0.4
    for ours, theirs, note in (
        (None, stated(), "no_scores_stated: the candidate states none"),
        (stated(), None, "no_scores_stated: the model in service states none"),
        (stated(frames=11), stated(), "scores_of_other_data: 11 frames"),
        (stated(objects=6), stated(), "scores_of_other_data"),
    ):
        judged = judge_scores(ours, theirs, gate)
        assert judged.reason == "" and judged.note.startswith(note) and not judged.figures
        required = judge_scores(ours, theirs, Gate(scores="required"))
        assert required.reason.startswith(note) and required.reason.endswith("requires them")
        assert judge_scores(ours, theirs, Gate(scores="ignored")).note == ""
    assert judge_scores(stated(0.1), stated(), Gate(scores="ignored")).reason == ""


def test_scores_in_a_bundle(tmp_path: Path) -> None:
    bundle: Any = SimpleNamespace(path=tmp_path, spec=SimpleNamespace(onnx_sha256="a" * 64))
    assert read_scores(bundle) is None
    evaluated = {
        "mean_ap": 0.5, "nds": 0.4, "frames": 3, "classes": {"car": {"ground_truth": 7, "ap": 0.5, "more": None}},
    }  # fmt: skip
    (tmp_path / SCORES).write_text(scores_json(evaluated, "a" * 64))
    assert read_scores(bundle) == StatedScores("a" * 64, 0.5, 0.4, 3, {"car": 7}, {"car": 0.5})
    text = (tmp_path / SCORES).read_text()
    for wrong, why in (
        (text.replace("aaaa", "bbbb"), "is about the ONNX bbbb"),
        (text.replace("0.4", "1.4"), "within"),
        (text.replace('"format": 1', '"format": 2'), "format 2"),
        (text.replace("0.4", "NaN"), "NaN"),
        ("[]", "object"),
    ):
        (tmp_path / SCORES).write_text(wrong)
        with pytest.raises(BundleError, match=why):
            read_scores(bundle)


def test_memory_is_asked_for_before() -> None:
    mib = 2**20
    assert judge_memory(100 * mib, 356 * mib, Gate()).reason == ""
    assert judge_memory(100 * mib, 355 * mib, Gate()).reason.startswith("no_memory: the engine is taken to need 100")


# ---- the gate's file


def test_a_gate_is_read_and_what_is_wrong_is_named() -> None:
    assert parse_gate("") == parse_gate("# nothing\n") == Gate()
    assert parse_gate("agreement: 0.7\nscores: required\nframes: 5") == Gate(agreement=0.7, scores="required", frames=5)
    for text, why in (
        ("agrement: 0.7", "unknown keys"), ("agreement: 2", "within"), ("scores: maybe", "one of if_stated"),
        ("- 1", "list"), ("frames: 1.5", "frames"), ("agreement: .nan", "within"), ("a: &x 1\nb: *x", "gate"),
        ("#" * 70_000, "characters"),
    ):  # fmt: skip
        with pytest.raises(GateError, match=why):
            parse_gate(text)


# ---- the shadow's verdict, the watch


AGREED = Cell(10)


def findings(frames: int = 30, cell: Cell = AGREED, boxes: tuple[int, int] = (10, 10), **more: Any) -> Findings:
    made = Findings(seen=frames, agreement=Agreement(frames, {("car", 0): cell}), boxes=boxes, **more)
    made.ms.extend([10.0] * frames)
    return made


@pytest.mark.parametrize(
    ("seen", "engine_ms", "reason"),
    [
        (findings(), 10.0, ""),
        (findings(frames=19), 10.0, "too_few_frames"),
        (findings(cell=Cell(1, 3, 3)), 10.0, "disagrees"),
        (findings(boxes=(0, 5), cell=Cell(theirs=5)), 10.0, "empty_output"),
        (findings(not_finite=1), 10.0, "not_finite_output"),
        (findings(frames=1, not_finite=1), 10.0, "not_finite_output"),
        (findings(errors=1, first_error="boom", not_finite=1), 10.0, "step_failed: boom"),
    ],
)
def test_the_shadows_verdict(seen: Findings, engine_ms: float, reason: str) -> None:
    judged = judge_shadow(seen, 10.0, engine_ms, 100.0, Gate())
    assert judged.reason.startswith(reason) and bool(judged.reason) == bool(reason)
    assert judged.figures["serving_p50_ms"] == 10.0
    assert bool(fault_of(seen)) == (reason.split(":")[0] in ("step_failed", "not_finite_output"))


def test_slow_is_what_is_slow_by_itself_too() -> None:
    assert judge_shadow(findings(), 6.0, 10.0, 20.0, Gate()).reason.startswith("too_slow: 10.0 ms")
    assert judge_shadow(findings(), 6.0, 5.0, 20.0, Gate()).reason == "", "its low priority may be why"
    assert judge_shadow(findings(), 6.0, 10.0, 50.0, Gate()).reason == "", "4 ms of 50 are no matter"
    assert allowed_ms(10.0, 30.0, Gate(latency_ratio=2.0)) == 20.0 and allowed_ms(1.0, 30.0, Gate()) == 4.0


def stepped(ms: float = 10.0, detections: Detections | None = None, **more: Any) -> Stepped:
    frame: Any = None
    return Stepped(frame, "a" * 64, ms, found((1, 1, 0, 0.9)) if detections is None else detections, **more)


def test_the_watch_sees_each_breach_at_its_frame() -> None:
    good = findings()
    watch = Watch(Gate(), 10.0, True)
    assert all(watch.note(stepped(), good) == "" for _ in range(100)) and watch.frames == 100
    assert watch.note(stepped(not_finite=2), good).startswith("not_finite_output: 2")
    assert watch.note(dataclasses.replace(stepped(), detections=None, error="x"), good) == "step_failed: x"


def test_the_watch_and_slow_frames() -> None:
    watch = Watch(Gate(), 15.0, True)
    notes = [watch.note(stepped(16.0), findings()) for _ in range(SLOW_FRAMES)]
    assert notes[:-1] == [""] * (SLOW_FRAMES - 1) and notes[-1].startswith("too_slow: 16.0 ms")
    watch = Watch(Gate(), 15.0, True)
    assert not any(watch.note(stepped(100.0 if n % 3 == 0 else 10.0), findings()) for n in range(60)), "single ones"


def test_the_watch_and_empty_frames() -> None:
    def notes(had_boxes: bool, other: Findings) -> list[str]:
        watch = Watch(Gate(), 10.0, had_boxes)
        return [watch.note(stepped(detections=found()), other) for _ in range(EMPTY_FRAMES)]

    assert [note.split(":")[0] for note in notes(True, findings())] == [""] * (EMPTY_FRAMES - 1) + ["empty_output"]
    assert not any(notes(False, findings())) and not any(notes(True, findings(boxes=(0, 0))))


def test_the_watch_judges_each_stretch_of_frames_anew() -> None:
    watch = Watch(Gate(frames=20), 10.0, True)
    for frames in range(1, 1001):  # agreed for long: what comes now must not drown in it
        assert watch.note(stepped(), findings(frames, Cell(10 * frames))) == ""
    said = [watch.note(stepped(), findings(1000 + n, Cell(10_000, 10 * n, 10 * n))) for n in range(1, 41)]
    (first,) = [n for n, text in enumerate(said) if text][:1]
    assert first < 40 and said[first].startswith("diverges: 0.00")


def test_figures_are_numbers_that_json_takes() -> None:
    assert json.dumps(Findings().figures(), allow_nan=False)
    assert json.dumps(findings().figures() | Watch(Gate(), 1.0, True).figures(), allow_nan=False)
